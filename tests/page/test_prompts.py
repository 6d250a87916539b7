"""Prompts: those painted before, saved ones, the negative one; LoRAs by name."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect
from safetensors.numpy import save_file

from tests.page.test_access import findings
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, photo
from tests.support.served import Serve, Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


@pytest.mark.slow
def test_earlier_prompts_come_back_with_the_arrow_keys(fake: Served, desk: Desk) -> None:
    """As in a terminal: up from an empty prompt, down again; a prompt that is being written is left alone."""
    desk.stroke((50, 64), (78, 64))
    desk.get("samples").select_option("1")
    for count, prompt in enumerate(("a red circle", "a blue square", "a red circle"), 1):
        desk.paint(prompt)
        desk.results(count)
    desk.reload()
    prompt_field = desk.get("prompt")
    prompt_field.press("ArrowUp")
    expect(prompt_field).to_have_value("a red circle")
    prompt_field.fill("")
    for key, value in (
        ("Up", "a red circle"),
        ("Up", "a blue square"),
        ("Up", "a blue square"),
        ("Down", "a red circle"),
    ):
        prompt_field.press(f"Arrow{key}")
        expect(prompt_field).to_have_value(value)
    prompt_field.press("ArrowDown")
    expect(prompt_field).to_have_value("")
    prompt_field.fill("a cat")
    prompt_field.press("ArrowUp")
    expect(prompt_field).to_have_value("a cat")


@pytest.mark.slow
@pytest.mark.gate
def test_a_prompt_is_saved_with_a_name_and_used_again(fake: Served, desk: Desk) -> None:
    """What a painter needs every day, in this browser."""
    desk.click("earlier-prompts")
    menu = desk.get("prompts-menu")
    expect(menu).to_contain_text("Prompts that you paint with are listed here.")
    expect(desk.get("prompt-save")).to_be_disabled()
    desk.page.keyboard.press("Escape")
    desk.get("prompt").fill("old brick wall, daylight")
    desk.click("earlier-prompts")
    desk.get("prompt-name").fill("Wall")
    desk.click("prompt-save")
    assert findings(desk) == []
    desk.page.keyboard.press("Escape")
    desk.get("prompt").fill("something else")
    desk.wait_saved()
    desk.reload()
    desk.click("earlier-prompts")
    menu.get_by_role("button", name="Wall", exact=True).click()
    expect(desk.get("prompt")).to_have_value("old brick wall, daylight")
    expect(menu).to_be_hidden()
    desk.click("earlier-prompts")
    menu.get_by_role("button", name="Remove from the list: Wall").click()
    expect(menu.get_by_role("button", name="Wall", exact=True)).to_have_count(0)


@pytest.mark.slow
def test_the_negative_prompt_is_under_the_prompt(fake: Served, desk: Desk) -> None:
    """By the name that everybody uses, without opening anything; text runs in its own direction."""
    desk.stroke((50, 64), (78, 64))
    expect(desk.page.get_by_label("Negative prompt")).to_be_visible()
    desk.page.get_by_label("Negative prompt").fill("blur")
    desk.get("prompt").fill("דג אדום")
    assert desk.get("prompt").evaluate("(field) => getComputedStyle(field).direction") == "rtl"
    desk.click("paint")
    desk.results(4)
    assert desk.sent()[0]["negative_prompt"] == b"blur"


@pytest.mark.slow
def test_many_loras_are_searched(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    """A server has dozens: those in use are listed, the others are found by their names."""
    for name in ("ink", "oil", "chalk", "fresco", "pencil", "pastel", "old film"):
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
    desk = Desk(visit, serve(loras=tmp_path).url)
    desk.open(file_of(photo()))
    desk.page.click("#advanced summary")
    expect(desk.get("lora-ink")).to_be_hidden()
    desk.get("lora-search").fill("P")
    expect(desk.get("lora-pastel")).to_be_visible()
    expect(desk.get("lora-ink")).to_be_hidden()
    desk.get("lora-pastel").fill("0.7")
    desk.get("lora-search").fill("")
    expect(desk.get("lora-pencil")).to_be_hidden()
    expect(desk.get("lora-pastel")).to_have_value("0.7")
