"""Steps computed in the background: they come to what the page itself would have made, in their order."""

import base64

import numpy as np
import pytest
from PIL import Image

from tests.support.editor_page import EditorPage, Grey, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 1100, 730  # grown as a whole that is more than the page does within a frame


def scattered(seed: int) -> Grey:
    """Soft and hard rectangles all over the mask, so that its box is all of it."""
    random = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(40):
        x, y = random.integers(0, WIDTH), random.integers(0, HEIGHT)
        w, h = random.integers(1, 120, 2)
        mask[y : y + h, x : x + w] = random.choice([20, 100, 128, 200, 255])
    mask[0, 0] = mask[-1, -1] = 255
    return mask


@pytest.fixture
def marked(editor: EditorPage) -> EditorPage:
    """The editor with such a mask."""
    editor.open(grey_picture(WIDTH, HEIGHT))
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(scattered(1))))
    return editor


def in_the_page(editor: EditorPage, mask: Grey, px: int) -> Grey:
    """What `grow` makes of a mask in one piece."""
    script = """{
        const mask = new h.Mask(a[1], a[2]);
        mask.values.set(Uint8Array.from(atob(a[0]), (c) => c.charCodeAt(0)));
        mask.touch({left: 0, top: 0, right: a[1], bottom: a[2]});
        h.morphology.grow(mask, a[3]);
        return h.base64Of(new Blob([mask.values]));
    }"""
    raw = editor.run(script, [base64.b64encode(mask.tobytes()).decode(), WIDTH, HEIGHT, px])
    return np.frombuffer(base64.b64decode(raw), np.uint8).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("px", [1, 9, -4, 300, -300])
def test_a_large_mask_is_grown_in_the_background_to_the_same_greys(marked: EditorPage, px: int) -> None:
    """Pixel by pixel as in one piece, and undo and redo go through it."""
    before = marked.mask()
    assert marked.run("{editor.grow(a); return editor.toJSON().steps.length}", px) == 1  # not done yet
    after = marked.mask()
    assert np.array_equal(after, in_the_page(marked, before, px))
    assert marked.run("editor.toJSON().steps.at(-1)") == {"kind": "grow", "px": px}
    marked.run("{editor.undo()}")
    assert np.array_equal(marked.mask(), before)
    marked.run("{editor.redo()}")
    assert np.array_equal(marked.mask(), after)


def test_steps_wait_for_the_one_that_is_computed(marked: EditorPage) -> None:
    """Grow, invert and shrink, pressed quickly, are done in that order."""
    before = marked.mask()
    marked.run("{editor.grow(6); editor.invert(); editor.grow(-2)}")
    expected = in_the_page(marked, in_the_page(marked, before, 6) ^ 255, -2)
    assert np.array_equal(marked.mask(), expected)
    assert marked.run("editor.toJSON().steps.map((s) => s.kind)") == ["bitmap", "grow", "invert", "grow"]


def test_undo_takes_back_what_is_still_computed(marked: EditorPage) -> None:
    """As it takes back an unfinished stroke: the mask stays, and the next step is done."""
    before = marked.mask()
    assert marked.run("{editor.grow(50); editor.undo(); return editor.canRedo}") is False
    assert np.array_equal(marked.mask(), before)
    marked.run("{editor.invert()}")
    assert np.array_equal(marked.mask(), before ^ 255)


def test_another_picture_forgets_what_was_computed_for_the_last(marked: EditorPage) -> None:
    """It would not even have its size."""
    marked.run("{editor.grow(50)}")
    marked.open(grey_picture(80, 60))
    assert marked.mask().shape == (60, 80)
    assert not marked.mask().any()


def test_the_whole_of_an_odd_picture_is_inverted(editor: EditorPage) -> None:
    """Four pixels at a time, and the rest of a picture whose number of pixels is no multiple of four."""
    editor.open(grey_picture(33, 17))
    mask = np.random.default_rng(0).integers(0, 256, (17, 33), dtype=np.uint8)
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(mask)))
    editor.run("{editor.invert()}")
    assert np.array_equal(editor.mask(), mask ^ 255)


SLICED = (3001, 2003)  # more than is changed in one piece; odd


@pytest.fixture
def large(editor: EditorPage) -> EditorPage:
    """The editor with a picture whose whole mask is changed in slices, and two soft rectangles in it."""
    editor.open(grey_picture(*SLICED))
    mask = np.zeros(SLICED[::-1], np.uint8)
    mask[255:258, 40:2900] = 90
    mask[1000:2003, 1500:] = 200
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(mask)))
    return editor


def test_a_whole_large_mask_is_changed_in_slices_to_the_same_greys(large: EditorPage) -> None:
    """Inverted, marked, cleared, selected, and the box goes with it; undo, redo and a draft agree."""
    states = [large.mask()]
    steps = ["editor.invert()", "editor.fill()", "editor.clear()", "editor.wandAt(5, 5)", "editor.grow(-9)"]
    expected = [states[0] ^ 255, *(np.full_like(states[0], grey) for grey in (255, 0, 255, 255))]
    large.run("{editor.brush = {strength: 1}; editor.wand = {tolerance: 0, contiguous: true}}")
    for step, after in zip(steps, expected, strict=True):
        large.run(f"{{{step}}}")
        states.append(large.mask())
        assert np.array_equal(states[-1], after), step
        assert (large.run("editor.box") is None) == (not after.any())
    draft = large.run("editor.toJSON()")
    assert [step["kind"] for step in draft["steps"]] == ["bitmap", "invert", "fill", "fill", "wand", "grow"]
    for state in states[-2::-1]:
        large.run("{editor.undo()}")
        assert np.array_equal(large.mask(), state)
    large.run("{editor.redo(); editor.redo()}")
    assert np.array_equal(large.mask(), states[2])
    large.run("editor.restore({blob: editor.picture.blob, name: 'again.png'}, a)", draft)
    assert np.array_equal(large.mask(), states[-1])


def test_undo_in_the_middle_of_a_sliced_step_leaves_the_mask_as_it_was(large: EditorPage) -> None:
    """No slice of it stays, and an extension made meanwhile does."""
    before = large.mask()
    assert large.run("{editor.invert(); editor.undo(); return editor.canRedo}") is False
    assert np.array_equal(large.mask(), before)
    large.run("{editor.invert(); editor.extend = {left: 64}}")
    assert np.array_equal(large.mask(), before ^ 255)
    assert large.run("editor.extend.left") == 64
    assert large.run("editor.toJSON().steps.map((s) => s.kind)") == ["bitmap", "extend", "invert"]


@pytest.mark.parametrize("size", [(64, 64), (65, 131), (259, 66), (301, 130)])
def test_the_pyramid_holds_the_brightest_of_four(editor: EditorPage, size: tuple[int, int]) -> None:
    """At odd sizes and in parts, black, white and grey: a zoomed-out mask loses no speck."""
    problems = editor.run(
        """{
        const [width, height] = a;
        const mask = new h.Mask(width, height);
        for (let k = 0; k < 200; k++) {
            const at = (n) => Math.floor(Math.random() * n);
            const [left, top] = [at(width), at(height)];
            const rect = {left, top, right: left + 1 + at(width - left), bottom: top + 1 + at(height - top)};
            const grey = [0, 255, 255, at(256)][k % 4];
            for (let y = rect.top; y < rect.bottom; y++)
                mask.values.fill(grey, y * width + rect.left, y * width + rect.right);
            mask.touch(rect);
        }
        const wrong = [];
        for (let k = 1; k < mask.levels.length; k++) {
            const [from, to] = [mask.levels[k - 1], mask.levels[k]];
            for (let y = 0; y < to.height; y++) for (let x = 0; x < to.width; x++) {
                let most = 0;
                for (const yy of [2 * y, 2 * y + 1]) for (const xx of [2 * x, 2 * x + 1])
                    if (yy < from.height && xx < from.width)
                        most = Math.max(most, from.values[yy * from.width + xx]);
                if (to.values[y * to.width + x] !== most) wrong.push([k, x, y]);
            }
        }
        return wrong.slice(0, 5);
    }""",
        list(size),
    )
    assert problems == []
