"""A request is checked once, completely; its errors say what would be right."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from inspect import getdoc
from itertools import takewhile

import pytest
from PIL import Image

from inpaint import InpaintRequest, RequestError
from inpaint.request import RANGES, check_settings

Make = Callable[..., InpaintRequest]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("samples", 0, "a whole number from 1 to 64"),
        ("samples", 1.0, "a whole number"),
        ("samples", True, "a whole number"),
        ("num_inference_steps", 151, "from 1 to 150"),
        ("num_inference_steps", "20", "from 1 to 150, not '20'"),
        ("guidance_scale", -0.1, "from 0 to 50"),
        ("guidance_scale", float("nan"), "from 0 to 50"),
        ("strength", 0.0, "above 0, at most 1"),
        ("strength", 1.01, "above 0, at most 1"),
        ("strength", float("inf"), "above 0"),
        ("seed", -2, "from -1 to 999999999999999"),
        ("padding", -1, "from 0 to 1024"),
        ("grow", 257, "from 0 to 256"),
        ("feather", 2.5, "a whole number from 0 to 256"),
        ("area", "box", "one of auto, whole"),
        ("fill", "black", "one of original, patch, telea, blur, neutral, noise"),
        ("color_match", 1, "true or false"),
        ("soft", "yes", "true or false"),
        ("guidance_rescale", 1.01, "a number from 0 to 1"),
        ("guidance_rescale", float("nan"), "from 0 to 1"),
        ("guidance_rescale", True, "from 0 to 1"),
        ("guidance_rescale", "0.7", "from 0 to 1"),
        ("guidance_interval", 0.5, "two rising fractions of the steps from 0 to 1"),
        ("guidance_interval", (0.2, 0.5, 0.8), "two rising fractions"),
        ("guidance_interval", (0.8, 0.2), "rising fractions"),
        ("guidance_interval", (0.5, 0.5), "rising fractions"),
        ("guidance_interval", (-0.1, 0.5), "from 0 to 1"),
        ("guidance_interval", (0.1, 1.1), "from 0 to 1"),
        ("guidance_interval", (0.1, float("nan")), "from 0 to 1"),
        ("guidance_interval", ("0", "1"), "from 0 to 1"),
        ("guidance_interval", (False, True), "from 0 to 1"),
        ("prompt", None, "must be text"),
        ("prompt", b"x", "must be text"),
        ("negative_prompt", 3, "must be text"),
        ("image", "photo.png", "must be a PIL picture, not str"),
        ("mask", None, "must be a PIL picture"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(
    field: str, value: object, says: str, request_for: Make
) -> None:
    """One sentence that names the field is all a caller should need."""
    with pytest.raises(RequestError) as caught:
        request_for(**{field: value})
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in fields(InpaintRequest)])
def test_every_field_is_documented_with_its_range(field: str) -> None:
    """The numbers in the docstring are a copy of the table's, for readers."""
    lines = (getdoc(InpaintRequest) or "").partition("Attributes:")[2].partition("Raises:")[0].splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith(f"    {field}: ")]
    more = [line.strip() for line in takewhile(lambda line: line.startswith(" " * 8), lines[start + 1 :])]
    entry = " ".join([lines[start].strip(), *more])
    assert str(RANGES.get(field, "")).casefold() in entry.casefold()


@pytest.mark.parametrize("field", RANGES)
def test_both_ends_of_every_range_are_accepted(field: str, request_for: Make) -> None:
    """The table prints the ends, so they must work."""
    limits = RANGES[field]
    steps = {"num_inference_steps": 150} if field == "strength" else {}
    low = 0.01 if limits.above else limits.low
    for end in (low, limits.high):
        strength = {"strength": 1.0} if field == "num_inference_steps" else {}
        request_for(**{**steps, **strength, field: limits.kind(end)})


def test_too_few_steps_name_both_numbers(request_for: Make) -> None:
    """9 steps at strength 0.1 paint nothing; the caller learns why and how many it takes."""
    with pytest.raises(RequestError, match=r"9 steps × strength 0\.1 .* at least 10 steps"):
        request_for(num_inference_steps=9, strength=0.1)
    assert request_for(num_inference_steps=10, strength=0.1).steps_to_run == 1


@pytest.mark.parametrize("strength", [5e-324, 1e-9, 0.0066])
def test_a_strength_that_no_number_of_steps_can_follow_is_refused(strength: float, request_for: Make) -> None:
    """The smallest numbers above 0 have no finite inverse, and 152 steps are refused, too."""
    with pytest.raises(RequestError, match="less than one step to paint; use a higher strength"):
        request_for(strength=strength)


def test_a_mask_of_another_size_names_both_sizes(request_for: Make) -> None:
    """It is the commonest mistake of all."""
    with pytest.raises(RequestError, match=r"mask: .*128×128, but is 64×128"):
        request_for(mask=Image.new("L", (64, 128)))


def test_sizes_are_compared_upright(request_for: Make) -> None:
    """A phone's sideways JPEG and a mask painted on what the viewer showed belong together."""
    sideways = Image.new("RGB", (64, 128))
    sideways.getexif()[0x0112] = 6
    request_for(image=sideways, mask=Image.new("L", (128, 64)))
    with pytest.raises(RequestError, match="mask"):
        request_for(image=sideways, mask=Image.new("L", (64, 128)))


@pytest.mark.parametrize("size", [(1, 500), (500, 15), (8193, 600), (16, 272), (5001, 5001)])
def test_pictures_too_small_large_or_narrow_are_refused(size: tuple[int, int], request_for: Make) -> None:
    """They could not be painted, or would cost memory out of proportion."""
    picture = Image.new("1", size)
    with pytest.raises(RequestError, match=f"image: .*{size[0]}×{size[1]}"):
        request_for(image=picture, mask=picture)


def test_it_is_frozen_and_spells_the_scheduler_right(request_for: Make) -> None:
    """What was checked stays as it was checked."""
    request = request_for(scheduler="euler A")
    assert request.scheduler == "Euler a"
    with pytest.raises(FrozenInstanceError):
        request.strength = 5.0  # type: ignore[misc]


def test_settings_can_be_checked_before_pictures_are_read() -> None:
    """A server answers a wrong number without decoding a 20 MB picture first."""
    check_settings({"samples": 4})
    with pytest.raises(RequestError, match="samples"):
        check_settings({"samples": 400})


def test_seeds_count_up_from_the_first(request_for: Make) -> None:
    """Each sample can be painted again alone, with a seed of its own."""
    request = request_for(seed=7, samples=3)
    assert request.seeds == [7, 8, 9]
    assert request.with_seed() is request


def test_a_drawn_seed_takes_the_place_of_minus_one(request_for: Make) -> None:
    """The seed must be known before painting starts, and everything else must stay."""
    request = request_for(seed=-1, samples=2, prompt="a fox <lora:style:0.5>")
    drawn = request.with_seed()
    assert drawn.seeds == [drawn.seed, drawn.seed + 1]
    assert 0 <= drawn.seed < 2**32
    assert (drawn.prompt, drawn.loras, drawn.image) == (request.prompt, request.loras, request.image)
    assert drawn.seed != request.with_seed().seed, "one in four billion"
    with pytest.raises(AssertionError, match="draws a seed first"):
        _ = request.seeds
