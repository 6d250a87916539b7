"""Snap finds drawn objects from rough hints, and the portrait's head; hints that fit nothing are refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inpaint.errors import RequestError
from inpaint.selection.hints import Hints, Point, Selection, point_of, scribble_of
from inpaint.selection.snap import pixels_of, snap
from tests.support.hints import KINDS, box_of, point_of_truth
from tests.support.paths import ROOT
from tests.support.scenes import SCENES, overlap, scene

PORTRAIT = ROOT / "docs" / "images" / "portrait.jpg"
# The corners of the head, read off the picture at four times its size.
HEAD = [(155, 60), (160, 51), (170, 45), (185, 38), (191, 33), (199, 26), (212, 20), (222, 18), (230, 16),
        (240, 17), (252, 21), (262, 24), (275, 30), (286, 38), (293, 48), (298, 60), (300, 72), (302, 90),
        (300, 100), (295, 110), (288, 118), (280, 126), (276, 131), (272, 136), (268, 137), (266, 146),
        (262, 156), (256, 165), (255, 175), (252, 184), (245, 188), (232, 190), (215, 188), (195, 184),
        (187, 177), (186, 165), (184, 150), (182, 133), (176, 128), (172, 120), (165, 116), (157, 105),
        (153, 92), (153, 75)]  # fmt: skip


def selected(selection: Selection) -> np.ndarray:
    return np.asarray(selection.image())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENES)
def test_a_drawn_object_is_found_from_a_rough_hint(name: str, kind: str) -> None:
    """Textures on both sides, thin legs, a handle with a hole."""
    drawn = scene(name)
    hints = KINDS[kind](drawn.truth)
    if (name, kind) == ("chequered cup on steel", "point"):
        # One click means one square as well as the cup; a click on each of its colours means the cup.
        hints = Hints(points=tuple(Point(x, 350) for x in range(350, 530, 20)))
    found = selected(snap(drawn.picture, hints.checked(drawn.size)))
    assert overlap(found, drawn.truth) >= 0.9


def test_a_large_picture_is_cut_at_the_edge_itself() -> None:
    """The edge of 24 megapixels is not that of a thumbnail, enlarged: it is off by two pixels at most."""
    drawn = scene("red disc on grass", (6000, 4000))
    found = selected(snap(drawn.picture, box_of(drawn.truth).checked(drawn.size)))
    perimeter = 2 * np.pi * 0.22 * 4000
    wrong = int(((found >= 128) != drawn.truth).sum())
    assert wrong < 2 * perimeter


def test_the_background_is_all_but_the_subject() -> None:
    """Every pixel belongs to one of them."""
    drawn = scene("animal on grass")
    subject = selected(snap(drawn.picture, Hints(what="subject")))
    background = selected(snap(drawn.picture, Hints(what="background")))
    assert (subject.astype(int) + background == 255).all()


def test_smaller_and_larger_are_what_they_say() -> None:
    """For a click that took too much or too little."""
    drawn = scene("steel star in the sky")
    hints = point_of_truth(drawn.truth)
    areas = [
        int((selected(snap(drawn.picture, replace(hints, variant=variant))) >= 128).sum())
        for variant in ("smaller", "best", "larger")
    ]
    assert areas == sorted(areas)


def test_a_point_outside_takes_away() -> None:
    """Two discs of one colour touch; the second click says that the right one is not meant."""
    image = Image.new("RGB", (400, 300), "darkgreen")
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 90, 180, 210), fill="crimson")
    draw.ellipse((220, 90, 340, 210), fill="crimson")
    draw.rectangle((170, 145, 230, 155), fill="crimson")
    both = selected(snap(pixels_of(image), Hints(points=(Point(120, 150),))))
    one = selected(snap(pixels_of(image), Hints(points=(Point(120, 150), Point(280, 150, inside=False)))))
    assert both[150, 280] == 255
    assert (one[150, 120], one[150, 280]) == (255, 0)


def test_the_same_click_selects_the_same() -> None:
    """GrabCut draws random numbers; ours are always the same."""
    drawn = scene("animal before bricks", (300, 200))
    hints = point_of_truth(drawn.truth)
    first, second = (selected(snap(drawn.picture, hints)) for _ in range(2))
    assert (first == second).all()


def test_the_head_of_the_portrait_is_found() -> None:
    """Skin, hair and a grey wall behind them; one click misses a part of the hair, a box or a stroke less."""
    picture = pixels_of(Image.open(PORTRAIT))
    truth, stroke = Image.new("L", (512, 512)), Image.new("L", (512, 512))
    ImageDraw.Draw(truth).polygon(HEAD, fill=255)
    ImageDraw.Draw(stroke).line([(230, 40), (230, 165)], 255, 60)
    for hints, least in (
        (Hints(points=(Point(230, 128),)), 0.85),
        (Hints(box=(145, 10, 310, 195)), 0.95),
        (Hints(scribble=scribble_of(stroke)), 0.93),
    ):
        found = selected(snap(picture, hints.checked((512, 512))))
        assert overlap(found, np.asarray(truth) > 0) >= least


@pytest.mark.parametrize("size", [(4, 4), (5, 400), (700, 6), (64, 64)])
@pytest.mark.parametrize("colour", ["white", "noise"])
def test_pictures_without_an_object_select_something_or_nothing(size: tuple[int, int], colour: str) -> None:
    """One colour, noise and slivers end with an answer."""
    width, height = size
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    picture = noise if colour == "noise" else np.full((height, width, 3), 255, np.uint8)
    for hints in (
        Hints(points=(Point(0, 0),)),
        Hints(points=(Point(width - 1, height - 1), Point(0, 0, inside=False))),
        Hints(box=(0, 0, width, height)),
        Hints(scribble=np.ones((height, width), bool)),
        Hints(what="subject"),
        Hints(what="background"),
    ):
        found = snap(picture, hints.checked(size))
        assert found.image().size == size


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        (Hints(), "points: give a point inside the object, a box around it, or a scribble"),
        (Hints(points=(Point(3, 3, inside=False),)), "points: give a point inside"),
        (Hints(points=(Point(9, 3),)), r"points: \(9, 3\) is outside the picture of 9×7"),
        (Hints(points=(Point(3, -1),)), r"points: \(3, -1\) is outside"),
        (Hints(box=(0, 0, 10, 7)), "box: must be left, top, right, bottom in the picture of 9×7"),
        (Hints(box=(5, 0, 5, 7)), "box: must be left"),
        (Hints(box=(0, 0, 3, 7)), "box: must be at least 4 pixels wide and high"),
        (Hints(scribble=np.ones((9, 7), bool)), "scribble: is 7×9, but the picture is 9×7"),
        (Hints(scribble=np.zeros((7, 9), bool)), "scribble: is black everywhere"),
    ],
)
def test_hints_that_fit_nothing_are_refused(hints: Hints, sentence: str) -> None:
    """One sentence that names the hint."""
    with pytest.raises(RequestError, match=sentence):
        hints.checked((9, 7))


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3], [1, 2, 1, 1], [1, 2, 0.5], [float("nan"), 1]])
def test_what_is_no_point_is_refused(values: list[float]) -> None:
    """Two numbers, and 1 or 0."""
    with pytest.raises(RequestError, match="points: must be"):
        point_of(values)
    assert point_of([1, 2]) == point_of([1, 2, 1]) == Point(1, 2)


def test_a_selection_knows_its_box() -> None:
    """An answer sends the box only."""
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 1:5] = 255
    found = Selection.of(mask, origin=(10, 20), size=(30, 40))
    assert found.box == (11, 22, 15, 24)
    assert found.image().getbbox() == found.box
    assert Selection.of(np.zeros((6, 8), np.uint8)).box is None
    assert scribble_of(found.image()).sum() == 8
