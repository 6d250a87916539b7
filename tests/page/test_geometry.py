"""The page's arithmetic against Python's: cut box, distances, sizes, bounds, the history's memory."""

import base64
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from inpaint import InpaintRequest
from inpaint.canvas.crop import _measure, cut, extend
from inpaint.canvas.sizes import best_size, usual_sizes
from inpaint.request import MAX_ASPECT, MAX_PIXELS, MAX_SIDE, MIN_SIDE
from tests.support.editor_page import EditorPage, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

SIDES = ("left", "top", "right", "bottom")
RANDOM = np.random.default_rng(20260)


def some_settings(native: int) -> dict[str, Any]:
    """Settings that a caller might choose."""
    return {
        "area": "whole" if RANDOM.random() < 0.1 else "auto",
        "padding": int(RANDOM.choice([0, 8, 32, 100, 1024])),
        "grow": int(RANDOM.choice([0, 1, 8, 64, 256])),
        "feather": int(RANDOM.choice([0, 1, 16, 200])),
        "native": native,
        "soft": bool(RANDOM.random() < 0.3),
    }


def some_case() -> tuple[list[int], list[int], dict[str, Any]]:
    """Bounds, picture size, settings."""
    width, height = (int(n) for n in RANDOM.integers(16, RANDOM.choice([200, 1500, 8192]), 2))
    left, right = sorted(int(n) for n in RANDOM.choice(width + 1, 2, replace=False))
    top, bottom = sorted(int(n) for n in RANDOM.choice(height + 1, 2, replace=False))
    return (
        [left, top, right, bottom],
        [width, height],
        some_settings(int(RANDOM.choice([128, 512, 1000, 1024]))),
    )


def a_request(settings: dict[str, Any], size: tuple[int, int] = (16, 16)) -> InpaintRequest:
    rest = {name: value for name, value in settings.items() if name != "native"}
    return InpaintRequest(Image.new("RGB", size), Image.new("L", size, 255), "x", **rest)


@pytest.mark.slow
def test_the_box_drawn_is_the_box_painted(editor: EditorPage) -> None:
    """The dashed frame shows what the model will see: 400 random masks and settings."""
    cases = [some_case() for _ in range(400)]
    script = """a.map(([[left, top, right, bottom], [width, height], settings]) => {
        const box = h.box.cutBox({left, top, right, bottom}, width, height, settings);
        return [box.left, box.top, box.right, box.bottom];
    })"""
    drawn = editor.run(script, cases)
    for (bounds, (width, height), settings), box in zip(cases, drawn, strict=True):
        left, top, right, bottom = bounds
        request = a_request(settings)
        painted, _, _ = _measure((left, top, right, bottom), (width, height), request, settings["native"])
        assert tuple(box) == painted, (bounds, width, height, settings)


@pytest.mark.slow
def test_working_sizes_are_python_s(editor: EditorPage) -> None:
    """The box takes the working size's shape, so that must be the same first."""
    cases = [
        [*(int(n) for n in RANDOM.integers(1, 8192, 2)), int(RANDOM.choice([64, 512, 1024]))]
        for _ in range(150)
    ]
    assert editor.run("a.map((c) => h.box.bestSize(...c))", cases) == [list(best_size(*c)) for c in cases]
    natives = [64, 128, 320, 512, 768, 1000, 1024, 1536]
    usual = [[list(size) for size in usual_sizes(native)] for native in natives]
    assert editor.run("a.map(h.box.usualSizes)", natives) == usual


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("added", [(0, 0, 0, 0), (0, 0, 40, 0), (24, 10, 0, 7)])
def test_the_editor_s_box_is_that_of_the_request_it_makes(
    editor: EditorPage, added: tuple[int, int, int, int], soft: bool
) -> None:
    """From painted greys and extension to the box, end to end, for what the page sends."""
    mask = np.zeros((150, 200), np.uint8)
    mask[60:80, 90:120], mask[20:30, 20:40], mask[100:120, 140:190] = 255, 100, 7
    settings = some_settings(128) | {"soft": soft, "area": "auto", "padding": 8}
    editor.open(grey_picture(200, 150))
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(mask)))
    extension = dict(zip(SIDES, added, strict=True))
    editor.run("{editor.settings = a[0]; editor.extend = a[1]}", [settings, extension])
    picture, grey = grey_picture(200, 150), Image.fromarray(mask)
    if any(added):
        picture, grey = extend(picture, grey, *added)
    request = replace(a_request(settings), image=picture, mask=grey)
    left, top, right, bottom = cut(request, 128).box
    at_x, at_y = added[:2]
    expected = dict(zip(SIDES, (left - at_x, top - at_y, right - at_x, bottom - at_y), strict=True))
    assert editor.run("editor.box") == expected


def test_without_anything_to_repaint_there_is_no_box(editor: EditorPage) -> None:
    """A faint grey is something for a soft request, and nothing for another."""
    editor.open(grey_picture(200, 150))
    editor.run("{editor.brush = {strength: 0.3}; editor.fill()}")
    assert editor.run("[editor.box, editor.isEmpty]") == [None, True]
    editor.run("{editor.settings = {soft: true}}")
    assert editor.run("editor.isEmpty") is False


def test_limits_are_the_server_s(editor: EditorPage) -> None:
    """A picture is refused before a user paints on it for an hour."""
    assert editor.run("h.picture.LIMITS") == {
        "minSide": MIN_SIDE,
        "maxSide": MAX_SIDE,
        "maxPixels": MAX_PIXELS,
        "maxAspect": MAX_ASPECT,
    }


def blobs(width: int, height: int, seed: int) -> np.ndarray:
    """(H, W) of soft and hard shapes, some at the edges, and specks."""
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.random((height, width)).astype(np.float32), (0, 0), 9)
    grey = np.clip((noise - noise.mean()) / noise.std() * 120 + 40, 0, 255).astype(np.uint8)
    grey[random.random((height, width)) < 0.001] = 255
    if seed % 2:
        grey = np.where(grey >= 128, 255, 0).astype(np.uint8)
    return grey


ON_MASK = """{
    const mask = new h.Mask(a.width, a.height);
    mask.values.set(Uint8Array.from(atob(a.values), (c) => c.charCodeAt(0)));
    mask.touch({left: 0, top: 0, right: a.width, bottom: a.height});
    const result = ((mask) => %s)(mask);
    return {result, values: await h.base64Of(new Blob([mask.values]))};
}"""


def on_mask(editor: EditorPage, grey: np.ndarray, script: str) -> tuple[Any, np.ndarray]:
    """What ``script`` says of a mask, and the mask after it."""
    height, width = grey.shape
    given = {"width": width, "height": height, "values": base64.b64encode(grey.tobytes()).decode()}
    answer = editor.run(ON_MASK % script, given)
    after = np.frombuffer(base64.b64decode(answer["values"]), np.uint8).reshape(grey.shape)
    return answer["result"], after


def grown(mask: np.ndarray, px: int) -> np.ndarray:
    """OpenCV's exact distances, for a mask of truth values."""
    away = cv2.distanceTransform(np.where(mask, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away) <= px + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("px", [1, 7, 30, 400])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_growing_and_shrinking_are_exactly_euclidean(editor: EditorPage, px: int, seed: int) -> None:
    """At both of the server's thresholds, for hard and soft masks; shrinking is growing of what is around."""
    grey = blobs(211, 157, seed)
    _, larger = on_mask(editor, grey, f"h.morphology.grow(mask, {px})")
    _, smaller = on_mask(editor, grey, f"h.morphology.grow(mask, -{px})")
    for threshold in (8, 128):
        mask = grey >= threshold
        assert ((larger >= threshold) == grown(mask, px)).all()
        assert ((smaller >= threshold) == ~grown(~mask, px)).all()
    assert (larger >= grey).all()
    assert (smaller <= grey).all()


def test_growing_keeps_the_greys_that_were_chosen(editor: EditorPage) -> None:
    """A patch painted at 40 % for a soft request is a larger patch at 40 %, not at 39 or 100."""
    grey = np.zeros((100, 120), np.uint8)
    grey[40:60, 30:60], grey[40:60, 80:90] = 102, 255
    _, larger = on_mask(editor, grey, "h.morphology.grow(mask, 6)")
    expected = np.where(grown(grey >= 102, 6), 102, 0)
    assert (larger == np.where(grown(grey == 255, 6), 255, expected)).all()


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (64, 64), (333, 129)])
def test_bounds_are_exact(editor: EditorPage, size: tuple[int, int]) -> None:
    """A single speck in a corner widens the box; it must be found, and nothing else."""
    random = np.random.default_rng(5)
    for n in (0, 1, 2, 50):
        grey = np.zeros(size, np.uint8)
        grey.flat[random.choice(grey.size, min(n, grey.size), replace=False)] = random.integers(100, 200)
        found, _ = on_mask(editor, grey, "mask.bounds(100)")
        box = Image.fromarray(grey).getbbox()
        assert found == (None if box is None else dict(zip(SIDES, box, strict=True)))
        assert on_mask(editor, grey, "mask.bounds(200)")[0] is None


def test_undo_is_exact_when_most_bitmaps_were_dropped(editor: EditorPage) -> None:
    """Memory has a bound: what is no longer kept is painted again from the strokes, to the same bytes."""
    result = editor.run("""{
        const picture = {width: 520, height: 300};
        const extend = {left: 0, top: 0, right: 0, bottom: 0};
        const budget = 1 << 19;
        let mask = new h.Mask(520, 300);
        const first = h.snapshot.Snapshot.empty(520, 300);
        const opened = {op: {kind: "picture"}, picture, extend, snapshot: first};
        const history = new h.history.History(opened, budget);
        const states = [mask.values.slice()];
        let most = 0;
        for (let k = 0; k < 30; k++) {
            const points = [k * 17 % 520, k * 31 % 300, k * 91 % 520, k * 57 % 300];
            const op = {kind: "stroke", size: 60 + k, hardness: 0.3, value: (k * 40) % 256, points};
            const rect = h.ops.apply(mask, op, picture);
            const snapshot = h.snapshot.Snapshot.take(mask, history.current.snapshot, rect);
            history.push({op, picture, extend, snapshot}, rect);
            states.push(mask.values.slice());
            const held = history.entries.map((e) => e.snapshot).filter(Boolean);
            most = Math.max(most, h.snapshot.bytesHeld(held));
        }
        const dropped = history.entries.filter((e) => e.snapshot === null).length;
        const same = (k) => states[k].every((v, i) => v === mask.values[i]);
        const wrong = [];
        for (let k = 29; k >= 0; k--) { mask = history.go(-1, mask); if (!same(k)) wrong.push(-k); }
        for (let k = 1; k <= 30; k++) { mask = history.go(1, mask); if (!same(k)) wrong.push(k); }
        return {dropped, wrong, most, budget};
    }""")
    assert result["wrong"] == []
    assert result["dropped"] >= 10
    assert result["most"] <= 2 * result["budget"]
