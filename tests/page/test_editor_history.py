"""The editor's memory: undo across everything, other pictures in place of the first, drafts, broken files."""

import base64
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.editor_page import EditorPage, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

# One of every kind of step, as the page's buttons make them.
STEPS = (
    "editor.invert()",
    "editor.grow(5)",
    "editor.grow(-9)",
    "editor.maskFromAlpha()",
    "editor.extend = {left: 32, bottom: 8}",
    "editor.fill()",
    "editor.clear()",
)


def state(editor: EditorPage) -> dict[str, Any]:
    """All that a step may change, by value."""
    seen: dict[str, Any] = editor.run("({extend: editor.extend, name: editor.picture.name})")
    return seen | {"mask": editor.mask().tobytes(), "shape": editor.mask().shape}


def picture_with_holes() -> Image.Image:
    """Grey, with a transparent disc."""
    y, x = np.mgrid[:120, :160]
    alpha = np.where((x - 80) ** 2 + (y - 60) ** 2 < 900, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full((120, 160, 3), 90, np.uint8), alpha]))


def work_for_a_while(editor: EditorPage) -> list[dict[str, Any]]:
    """Every kind of step, one after the other; the states in between."""
    states = [state(editor)]

    def seen() -> None:
        states.append(state(editor))

    editor.run("{editor.brush = {size: 25, hardness: 0.6, strength: 0.8}}")
    for tool, button in (("brush", "left"), ("lasso", "left"), ("rectangle", "left"), ("eraser", "left")):
        editor.run("{editor.tool = a}", tool)
        editor.drag((20, 20), (120, 40), (70, 100), button=button)
        seen()
    mask = np.zeros((120, 160), np.uint8)
    mask[20:60, 30:90], mask[70:100, 50:140] = 90, np.arange(90)
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(mask)))
    seen()
    for step in STEPS:
        editor.run(f"{{{step}}}")
        seen()
    assert all(one != other for one, other in pairwise(states))
    return states


@pytest.mark.slow
def test_undo_and_redo_go_through_every_kind_of_step(editor: EditorPage) -> None:
    """Nothing that the page does is for ever: strokes, shapes, files, commands, extension, kept results."""
    editor.open(picture_with_holes(), "first.png")
    states = work_for_a_while(editor)
    file = [encoded(grey_picture(64, 48)), "kept.png"]
    editor.run("editor.replace({blob: h.blobOf(a[0]), name: a[1]})", file)
    states.append(state(editor))
    editor.run("{editor.tool = 'rectangle'}")
    editor.drag((5, 5), (30, 40))
    states.append(state(editor))
    for expected in states[-2::-1]:
        assert editor.run("editor.canUndo")
        editor.run("{editor.undo()}")
        assert state(editor) == expected
    assert not editor.run("editor.canUndo")
    for expected in states[1:]:
        editor.run("{editor.redo()}")
        assert state(editor) == expected
    assert not editor.run("editor.canRedo")


@pytest.mark.slow
def test_a_new_step_forgets_what_was_undone(editor: EditorPage) -> None:
    """As everywhere: redo ends where one goes another way."""
    editor.open(grey_picture(160, 120))
    editor.run("{editor.fill(); editor.undo(); editor.invert(); editor.undo(); editor.extend = {top: 16}}")
    assert editor.run("[editor.canRedo, editor.extend.top]") == [False, 16]
    editor.run("{editor.undo()}")
    assert editor.run("[editor.canUndo, editor.extend.top]") == [False, 0]


@pytest.mark.slow
def test_what_changes_nothing_is_no_step(editor: EditorPage) -> None:
    """Else undo seems not to work."""
    editor.open(grey_picture(160, 120))
    editor.run("{editor.clear(); editor.grow(4); editor.extend = {left: 0}; editor.tool = 'brush'}")
    editor.drag((-40, -40), (-60, -50))  # outside the picture
    assert editor.run("[editor.canUndo, h.events.filter((e) => e === 'change').length]") == [False, 1]


@pytest.mark.slow
def test_a_draft_repeats_to_the_same_pixels(editor: EditorPage) -> None:
    """A reload loses nothing, and what was painted before it can still be undone."""
    editor.open(picture_with_holes(), "first.png")
    states = work_for_a_while(editor)[:-1]
    editor.run("{editor.undo()}")  # the clear at the end
    draft = json.dumps(editor.run("editor.toJSON()"))
    editor.run("{h.reset()}")
    file = [encoded(picture_with_holes()), "first.png", draft]
    editor.run("editor.restore({blob: h.blobOf(a[0]), name: a[1]}, JSON.parse(a[2]))", file)
    for expected in states[::-1]:
        assert state(editor) == expected
        editor.run("{editor.undo()}")
    assert not editor.run("editor.canUndo")


def test_a_draft_is_of_the_picture_that_is_shown(editor: EditorPage) -> None:
    """What was painted on a picture since replaced is not repeated on its successor."""
    editor.open(grey_picture(160, 120))
    editor.run("{editor.fill()}")
    editor.run("editor.replace({blob: h.blobOf(a), name: 'kept'})", encoded(grey_picture(64, 48)))
    editor.run("{editor.extend = {right: 8}}")
    kinds = editor.run("editor.toJSON().steps.map((step) => step.kind)")
    assert kinds == ["extend"]


@pytest.mark.slow
def test_strokes_are_kept_as_lines_not_as_pictures(editor: EditorPage) -> None:
    """A draft of six strokes on a large picture is a few kilobytes, written in no time."""
    editor.open(grey_picture(2000, 1500))
    for k in range(6):
        editor.drag((100, 200 * k + 50), (1900, 190 * k + 200), steps=5)
    assert 500 < len(json.dumps(editor.run("editor.toJSON()"))) < 4000


@pytest.mark.parametrize(
    "draft",
    [
        {},
        {"version": 2, "steps": []},
        {"version": 1, "steps": [{"kind": "constructor"}]},
        {
            "version": 1,
            "steps": [{"kind": "stroke", "size": -4, "hardness": 1, "value": 255, "points": [1, 2]}],
        },
        {"version": 1, "steps": [{"kind": "polygon", "value": 300, "points": [1, 2]}]},
        {"version": 1, "steps": [{"kind": "picture"}]},
    ],
)
def test_a_draft_from_elsewhere_is_refused_in_words(editor: EditorPage, draft: dict[str, Any]) -> None:
    """And what is open stays open."""
    editor.open(grey_picture(160, 120), "mine.png")
    editor.run("{editor.fill()}")
    script = "editor.restore({blob: h.blobOf(a[0]), name: 'x'}, a[1]).then(() => null, (e) => e.message)"
    said = editor.run(script, [encoded(grey_picture(64, 48)), draft])
    assert said == "The draft cannot be read: it was written by another version of this page."
    assert state(editor)["name"] == "mine.png"
    assert editor.mask().all()


def as_file(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
BROKEN = [
    (b"", "a.png is empty."),
    (b"%PDF-1.7 not a picture at all", "a.png is not a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture."),
    (b"8BPS" + bytes(400), "a.png is not a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture."),
    (as_file(NOISE, "PNG")[:20_000], "a.png cannot be opened: the file is damaged or cut off."),
    (as_file(NOISE, "JPEG")[:3000], "a.png cannot be opened: the file is damaged or cut off."),
    (as_file(NOISE, "WEBP")[:3000], "a.png cannot be opened: the file is damaged or cut off."),
    (as_file(grey_picture(12, 100), "PNG"), "a.png is 12 × 100 pixels; its sides must be 16 to 8192 pixels."),
    (as_file(grey_picture(16, 300), "PNG"), "a.png is 16 × 300 pixels; it must not be narrower than 1:16."),
]


@pytest.mark.parametrize(("file", "sentence"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("how", ["open", "replace"])
def test_a_file_that_cannot_be_painted_is_refused_in_words(
    editor: EditorPage, how: str, file: bytes, sentence: str
) -> None:
    """The change shows immediately, and open parts stay open."""
    editor.open(grey_picture(160, 120), "mine.png")
    editor.run("{editor.fill()}")
    script = f"editor.{how}({{blob: h.blobOf(a), name: 'a.png'}}).then(() => null, (e) => e.message)"
    assert editor.run(script, base64.b64encode(file).decode()) == sentence
    assert editor.run("[editor.picture.name, editor.isEmpty]") == ["mine.png", False]


@pytest.mark.slow
def test_twenty_five_megapixels_open_and_undo_within_memory(editor: EditorPage, harness: EditorPage) -> None:
    """The largest picture the server takes; strokes right across it, and back."""
    editor.run("""{
        const canvas = new OffscreenCanvas(5000, 5000);
        const context = canvas.getContext("2d");
        context.fillStyle = "#87a";
        context.fillRect(0, 0, 5000, 5000);
        await editor.open({blob: await canvas.convertToBlob({type: "image/jpeg"}), name: "large.jpg"});
        editor.brush = {size: 300};
    }""")
    for k in range(6):
        editor.drag((100, 700 * k + 400), (4900, 600 * k + 900), steps=3)
    painted = int(editor.mask().astype(bool).sum())
    memory = renderer_bytes(harness)
    editor.run("{for (let k = 0; k < 6; k++) editor.undo()}")
    assert editor.run("[editor.isEmpty, editor.canUndo]") == [True, False]
    editor.run("{for (let k = 0; k < 6; k++) editor.redo()}")
    assert int(editor.mask().astype(bool).sum()) == painted > 5_000_000
    assert memory < 900_000_000, memory


def renderer_bytes(harness: EditorPage) -> int:
    """The memory of the largest of the browser's processes that show pages."""
    browser = harness.visit.context.browser
    assert browser is not None
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    return max(resident_bytes(pid) for pid in renderers)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
