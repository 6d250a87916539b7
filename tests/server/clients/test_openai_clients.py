"""The OpenAI dialect through unmodified clients: OpenAI's SDKs, Vercel's AI SDK and LiteLLM."""

import io

import pytest
from PIL import Image

from tests.support.clients import (
    BOX,
    SIZE,
    Show,
    assert_generated,
    assert_painted,
    assert_repainted,
    assert_same,
)

pytest_plugins = ["tests.support.client_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.gate]

SDKS = ("openai", "openai (npm)")
ALL = (*SDKS, "ai", "litellm")
# The defaults of grow and feather, 8 + 16 thousandths of the box's side, and what rounding adds.
REACH = 6


@pytest.mark.parametrize("client", ALL)
@pytest.mark.parametrize("case", ["hole", "white", "own_alpha"])
def test_only_the_masked_part_changes(show: Show, client: str, case: str) -> None:
    """OpenAI's transparent hole, the white mask that people send, and a picture that is its own mask."""
    assert_painted(show(client).picture(case), REACH)


@pytest.mark.parametrize("client", ALL)
def test_every_pixel_outside_the_mask_is_kept(show: Show, client: str) -> None:
    """Without growth and blending, to the mask's very edge."""
    assert_painted(show(client).picture("exact"))


@pytest.mark.parametrize("client", ALL)
def test_without_a_mask_the_whole_picture_is_repainted(show: Show, client: str) -> None:
    """Open WebUI and LibreChat never send one."""
    assert_repainted(show(client).picture("no_mask"))


@pytest.mark.parametrize("client", ALL)
def test_n_pictures_have_seeds_of_their_own(show: Show, client: str) -> None:
    """The second of three with seed 7 is the one of seed 8."""
    pictures = show(client).pictures("three")
    assert len({picture.tobytes() for picture in pictures}) == 3
    for picture in pictures:
        assert_painted(picture, REACH)
    assert_same(pictures[0], show(client).picture("hole"))
    assert_same(pictures[1], show(client).picture("second"))


@pytest.mark.parametrize("client", ALL)
def test_text_becomes_a_picture_of_the_size(show: Show, client: str) -> None:
    """The demo model knows red circles."""
    assert_generated(show(client).picture("generate"))


@pytest.mark.parametrize("client", SDKS)
def test_a_stream_shows_the_picture_grow(show: Show, client: str) -> None:
    """Previews as they come, counted from 0, then the picture, with the usage that the SDKs require."""
    facts = show(client).facts("stream")
    *previews, picture = show(client).pictures("stream")
    assert facts["types"] == ["image_edit.partial_image"] * len(previews) + ["image_edit.completed"]
    assert 1 <= len(previews) <= 2
    assert facts["indices"] == list(range(len(previews)))
    assert isinstance(facts["total_tokens"], int)
    assert_painted(picture, REACH)
    for preview in previews:
        assert preview.convert("RGB").tobytes() != picture.convert("RGB").tobytes()


@pytest.mark.parametrize("client", SDKS)
def test_files_are_of_the_format_asked_for(show: Show, client: str) -> None:
    """PNG unless asked, which alone keeps every pixel."""
    for case, kind in (("hole", "PNG"), ("webp", "WEBP")):
        (file,) = show(client).files(case)
        assert Image.open(io.BytesIO(file)).format == kind
    assert show(client).facts("hole")["size"] == f"{SIZE[0]}x{SIZE[1]}"


def test_a_list_of_pictures_edits_the_first(show: Show) -> None:
    """The mask belongs to the first, by OpenAI's reference; the SDK sends a list as ``image[]``."""
    assert_painted(show("openai").picture("list"), REACH)


@pytest.mark.parametrize("client", SDKS)
def test_models_are_listed(show: Show, client: str) -> None:
    """Programs fill a menu with them, or test the connection."""
    facts = show(client).facts("models")
    assert len(facts["names"]) >= 1
    assert facts["retrieved"] == facts["names"][0]


def test_the_ai_sdk_sends_n_requests_for_unknown_models(show: Show) -> None:
    """Its OpenAI provider does; the pictures come all the same."""
    assert len(show("ai").pictures("of_openai")) == 2


ERRORS = [
    ("bad_field", 400, "BadRequestError", "strength"),
    ("bad_size", 400, "BadRequestError", "mask"),
    ("not_a_picture", 400, "BadRequestError", "image"),
    ("wrong_key", 401, "AuthenticationError", None),
]


@pytest.mark.parametrize("client", SDKS)
@pytest.mark.parametrize(
    ("case", "status", "name", "field"),
    [*ERRORS, ("bad_n", 400, "BadRequestError", "n"), ("no_model", 404, "NotFoundError", None),
     ("no_route", 404, "NotFoundError", None), ("too_large", 413, "APIStatusError", None),
     ("no_credits", 429, "RateLimitError", None), ("failed", 500, "InternalServerError", None)],
)  # fmt: skip
def test_errors_are_the_sdks_own(
    show: Show, client: str, case: str, status: int, name: str, field: str | None
) -> None:
    """A program catches the class that it would catch at OpenAI, and is told which field is wrong."""
    error = show(client).error(case)
    if client == "openai (npm)":
        name = name.replace("APIStatusError", "APIError")
    assert name in error["classes"]
    assert error.get("status_code", error.get("status")) == status
    if field is not None:
        assert error["param"] == field
        assert f"{field}: " in error["text"]


@pytest.mark.parametrize(
    ("case", "code"), [("no_model", "model_not_found"), ("wrong_key", "invalid_api_key")]
)
@pytest.mark.parametrize("client", SDKS)
def test_errors_have_openais_codes(show: Show, client: str, case: str, code: str) -> None:
    """Programs tell a missing model from a missing route by them."""
    assert show(client).error(case)["code"] == code


@pytest.mark.parametrize(("case", "status", "name", "field"), ERRORS)
def test_litellms_errors_are_its_own(
    show: Show, case: str, status: int, name: str, field: str | None
) -> None:
    """It maps OpenAI's errors to classes of its own, by status and words."""
    error = show("litellm").error(case)
    assert name in error["classes"]
    assert error["status_code"] == status
    assert field is None or f"{field}: " in error["text"]


@pytest.mark.parametrize(
    ("case", "status", "field"), [(case, status, field) for case, status, _, field in ERRORS]
)
def test_the_ai_sdk_repeats_our_sentence(show: Show, case: str, status: int, field: str | None) -> None:
    """Its one class of errors of an API holds the status, and the sentence as its message."""
    error = show("ai").error(case)
    assert "AI_APICallError" in error["classes"] or error["name"] == "AI_APICallError"
    assert error["statusCode"] == status
    assert field is None or error["text"].startswith(f"{field}: ")


@pytest.mark.parametrize("client", SDKS)
@pytest.mark.parametrize(
    ("case", "requests"), [("hole", 1), ("too_large", 1), ("no_credits", 1), ("failed", 3)]
)
def test_only_what_may_succeed_is_sent_again(show: Show, client: str, case: str, requests: int) -> None:
    """OpenAI's SDKs send what ended with 429 or 500 twice more, unless told that it is of no use."""
    assert show(client).cases[case]["requests"] == requests


def test_the_box_is_inside_the_picture() -> None:
    """Else the checks above would compare nothing."""
    assert 0 < BOX[0] - REACH < BOX[2] + REACH < SIZE[0]
    assert 0 < BOX[1] - REACH < BOX[3] + REACH < SIZE[1]
