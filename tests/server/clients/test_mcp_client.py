"""``inpaint mcp`` through the client of MCP's own SDK, painting with a server that has keys."""

import pytest

from tests.support.clients import SIZE, Show, assert_painted

pytest_plugins = ["tests.support.client_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.gate]

REACH = 6  # the defaults of grow and feather, for a mask; a box has its blend inside


def test_tools_are_listed_with_descriptions(show: Show) -> None:
    """An agent chooses by them."""
    facts = show("mcp").facts("tools")
    assert {"inpaint", "remove", "extend", "describe"} <= set(facts["names"])
    assert facts["described"]


@pytest.mark.parametrize(("case", "reach"), [("white", REACH), ("box", 0), ("remove", 0)])
def test_only_the_named_part_changes(show: Show, case: str, reach: int) -> None:
    """White of a mask, or a box, since agents cannot draw masks."""
    picture, _ = show("mcp").pictures(case)
    assert_painted(picture, reach)


def test_a_seed_paints_the_same_picture(show: Show) -> None:
    """And another seed another one."""
    box, again, second = (show("mcp").pictures(case)[0].tobytes() for case in ("box", "again", "second"))
    assert box == again != second


def test_a_picture_is_extended(show: Show) -> None:
    """What was there stays."""
    picture, _ = show("mcp").pictures("extend")
    assert picture.size == (SIZE[0] + 48, SIZE[1])


def test_steps_are_reported(show: Show) -> None:
    """Hosts show a bar, and give up on calls that are silent."""
    steps = [done for done, _ in show("mcp").facts("box")["steps"]]
    assert len(steps) > 3
    assert steps == sorted(steps)


def test_previews_are_small(show: Show) -> None:
    """An agent has no room for megabytes."""
    for case in ("box", "describe"):
        preview = show("mcp").files(case)[-1]
        assert preview.startswith(b"\xff\xd8")
        assert len(preview) < 100_000
    assert show("mcp").facts("describe")["width"] == SIZE[0]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("bad_field", "strength: "),
        ("bad_box", "box: "),
        ("bad_size", "mask_path: "),
        ("not_a_picture", "image"),
        ("outside", "image_path: "),
        ("wrong_key", "API key is invalid"),
        ("no_credits", "credits"),
        ("failed", "NaN"),
    ],
)
def test_errors_are_sentences_for_the_agent(show: Show, case: str, sentence: str) -> None:
    """It reads them and tries again, so they name the argument."""
    error = show("mcp").error(case)
    assert error["classes"][0] == "ToolError"
    assert sentence in error["text"]
