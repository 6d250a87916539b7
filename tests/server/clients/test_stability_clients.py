"""Stability's dialect through LiteLLM, the one client of it that takes another address."""

import pytest

from tests.support.clients import Show, assert_painted

pytest_plugins = ["tests.support.client_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.gate]

REACH = 12  # grow_mask is 5 pixels unless given, and as much again is blended


@pytest.mark.parametrize("case", ["stability_inpaint", "stability_own_alpha", "stability_erase"])
def test_only_the_masked_part_changes(show: Show, case: str) -> None:
    """White is repainted or, without a mask, what is transparent."""
    assert_painted(show("litellm").picture(case), REACH)


def test_a_seed_paints_the_same_picture(show: Show) -> None:
    """Else a seed would be of no use."""
    one, other = (show("litellm").picture(case) for case in ("stability_inpaint", "stability_again"))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("case", "status", "name", "sentence"),
    [
        ("stability_not_a_picture", 400, "BadRequestError", "image: "),
        ("stability_wrong_key", 401, "AuthenticationError", ""),
    ],
)
def test_errors_are_litellms_own(show: Show, case: str, status: int, name: str, sentence: str) -> None:
    """It maps Stability's errors to the classes that it has for every provider."""
    error = show("litellm").error(case)
    assert name in error["classes"]
    assert error["status_code"] == status
    assert sentence in error["text"]
