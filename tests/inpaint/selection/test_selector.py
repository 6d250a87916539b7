"""Selecting in one's own process: snap without weights, SAM with a folder of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import RequestError
from inpaint.selection.hints import Hints, Point
from inpaint.selection.selector import Selector
from tests.support.hints import stroke_inside
from tests.support.scenes import overlap, scene
from tests.support.tiny_sam import save_tiny_sam

DRAWN = scene("red disc on grass", (300, 200))
IMAGE = Image.fromarray(DRAWN.picture)


def test_snap_is_taken_where_no_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And SAM is asked for in vain, with the command that brings it."""
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path))
    assert Selector.of().name == "snap"
    with pytest.raises(RequestError, match=r"^method: sam is not installed; run: inpaint models fetch"):
        Selector.of("sam")
    with pytest.raises(RequestError, match=r"^how: must be one of auto, snap, sam"):
        Selector.of("magic", field="how")


def test_sam_looks_once_and_answers_each_click(tmp_path: Path) -> None:
    """With random weights it selects anything; a stroke, which confuses it, is snap's."""
    selector = Selector(save_tiny_sam(tmp_path / "sam2-tiny"), "cpu")
    assert selector.name == "sam2-tiny"
    found = [selector.select(IMAGE, Hints((Point(x, 100),))) for x in (150, 10)]
    assert all(one.size == IMAGE.size and one.score is not None for one in found)
    assert selector._sam is not None
    assert selector._sam.embedded == 1
    stroke = selector.select(IMAGE, stroke_inside(DRAWN.truth))
    assert stroke.score is None
    with pytest.raises(RequestError, match=r"^points: .* outside the picture"):
        selector.select(IMAGE, Hints((Point(300, 0),)))
    mask = Selector(None).select(IMAGE, Hints(what="subject")).image()
    assert overlap(np.asarray(mask), DRAWN.truth) > 0.9
