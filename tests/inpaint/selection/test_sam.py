"""SAM's plumbing on the real classes with random weights: shapes, scaling, the cache, labels, errors."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inpaint.errors import ModelError, RequestError
from inpaint.selection.hints import Hints, Point
from inpaint.selection.sam import (
    MODELS,
    Prompt,
    Sam,
    _chosen,
    installed,
    prompt_of,
    selection_of,
    square_of,
)
from inpaint.weights.store import resolve
from tests.support.hints import stroke_inside
from tests.support.scenes import overlap, scene
from tests.support.tiny_sam import SIDE, save_tiny_sam

DRAWN = scene("red disc on grass", (300, 200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def sam(folder: Path) -> Sam:
    """Load without a warning, although the file says that it is the video model."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Sam.load(folder, "cpu")


def ready(sam: Sam) -> Sam:
    sam.embed("a", square_of(DRAWN.picture, sam.side))
    return sam


def test_a_picture_is_embedded_once(sam: Sam) -> None:
    """The seconds are spent once a picture, and six are remembered."""
    ready(sam)
    ready(sam)
    assert (sam.side, sam.embedded, sam.holds("a"), sam.holds("b")) == (SIDE, 1, True, False)
    for name in "bcdefg":
        sam.embed(name, square_of(DRAWN.picture, sam.side))
    assert (sam.embedded, sam.holds("a"), sam.holds("g")) == (7, False, True)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=((0.5, 0.5, True),)),
        Prompt(points=((0.5, 0.5, True), (0.1, 0.1, False))),
        Prompt(points=((0.1, 0.1, False), (0.5, 0.5, True))),
        Prompt(box=(0.2, 0.2, 0.8, 0.8)),
        Prompt(points=((0.5, 0.5, True),), box=(0.2, 0.2, 0.8, 0.8)),
        Prompt(points=((0.5, 0.5, True),), variant="larger"),
        Prompt(box=(0.2, 0.2, 0.8, 0.8), variant="smaller"),
    ],
)
def test_every_prompt_has_one_mask(sam: Sam, prompt: Prompt) -> None:
    """And the same prompt has the same mask."""
    logits, score = ready(sam).decide("a", prompt)
    again, _ = sam.decide("a", prompt)
    assert (logits.shape, logits.dtype) == ((SIDE // 4, SIDE // 4), np.float32)
    assert np.isfinite(logits).all()
    assert np.isfinite(score)
    assert (logits == again).all()


def test_points_reach_the_network_in_its_own_pixels(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """Width and height are scaled apart, in fp32, with 1 inside and 0 outside."""
    seen: list[dict[str, Any]] = []
    model, forward = sam._model, type(sam._model).forward

    def spied(*args: Any, **given: Any) -> Any:
        seen.append(given)
        return forward(model, *args, **given)

    monkeypatch.setattr(model, "forward", spied)
    hints = Hints(points=(Point(150, 50), Point(0, 100, inside=False)), box=(30, 20, 300, 200))
    ready(sam).decide("a", prompt_of(DRAWN.picture, hints))
    (given,) = seen
    assert given["input_points"].tolist() == [[[[SIDE / 2, SIDE / 4], [0, SIDE / 2]]]]
    assert given["input_labels"].tolist() == [[[1, 0]]]
    assert given["input_boxes"][0, 0].tolist() == pytest.approx([SIDE / 10, SIDE / 10, SIDE, SIDE])
    assert str(given["input_points"].dtype) == "torch.float32"
    assert given["multimask_output"] is False


def test_a_second_click_corrects_the_first(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is shown what it selected for the first one."""
    seen: list[dict[str, Any]] = []
    model, forward = sam._model, type(sam._model).forward

    def spied(*args: Any, **given: Any) -> Any:
        seen.append(given)
        return forward(model, *args, **given)

    monkeypatch.setattr(model, "forward", spied)
    ready(sam).decide("a", Prompt(points=((0.5, 0.5, True), (0.1, 0.1, False))))
    first, second = seen
    assert (first["multimask_output"], first["input_points"].shape[2]) == (True, 1)
    assert second["input_masks"].shape[-2:] == (SIDE // 4, SIDE // 4)


def test_the_best_mask_and_its_neighbours_by_size() -> None:
    """Smaller and larger are steps from the best, not from the middle."""
    areas, scores = [30, 10, 20], [0.5, 0.6, 0.9]
    assert [_chosen(areas, scores, step) for step in (-1, 0, 1)] == [1, 2, 0]
    assert [_chosen([5], [0.1], step) for step in (-1, 0, 1)] == [0, 0, 0]


def test_the_subject_is_asked_for_by_its_box(sam: Sam) -> None:
    """SAM has no notion of a main thing; snap has one."""
    left, top, right, bottom = prompt_of(DRAWN.picture, Hints(what="subject")).box or (0, 0, 0, 0)
    rows, columns = np.flatnonzero(DRAWN.truth.any(1)), np.flatnonzero(DRAWN.truth.any(0))
    assert (left * 300, right * 300) == pytest.approx((columns[0], columns[-1]), abs=4)
    assert (top * 200, bottom * 200) == pytest.approx((rows[0], rows[-1]), abs=4)


def test_a_stroke_is_refused() -> None:
    """Dense points confuse SAM 2."""
    with pytest.raises(RequestError, match="scribble: is for the method snap"):
        prompt_of(DRAWN.picture, stroke_inside(DRAWN.truth))


@pytest.mark.parametrize("size", [(300, 200), (3000, 2000)])
def test_logits_become_a_mask_of_the_picture(size: tuple[int, int]) -> None:
    """Also one that is ten times as large as the logits, whose edge is then the picture's."""
    import cv2

    drawn = scene("red disc on grass", size)
    logits = cv2.resize(drawn.truth.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA) - 0.5
    found = selection_of(drawn.picture, Hints(), np.asarray(logits, np.float32), 1.2)
    assert overlap(np.asarray(found.image()), drawn.truth) > 0.98
    assert (found.size, found.score) == (size, 1.0)
    rest = selection_of(drawn.picture, Hints(what="background"), np.asarray(logits, np.float32), 0.5)
    assert (np.asarray(rest.image()).astype(int) + np.asarray(found.image()) == 255).all()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_of_something_else_is_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    """It says what to run."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(b"{}" if file.name == name else file.read_bytes())
    with pytest.raises(ModelError, match="holds no SAM 2 model; run: inpaint models fetch sam2-tiny"):
        Sam.load(tmp_path, "cpu")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_selects_is_no_model_that_paints(name: str, tmp_path: Path) -> None:
    """It is refused before anything is fetched."""
    with pytest.raises(ModelError, match=f"{name} selects objects, and does not paint; these paint: demo"):
        resolve(name, tmp_path)
    assert installed(tmp_path) is None
