"""The page in other languages: every sentence is translated, and the browser or a choice says which one."""

import pytest
from playwright.sync_api import expect

from tests.support.browser_session import Visiting
from tests.support.page_driver import Desk, photo
from tests.support.served import Served, file_of
from tools.docs import words

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

PAINT = {"de": "Malen", "es": "Pintar", "fr": "Peindre", "ja": "描画", "zh": "绘制"}
SPOKEN = sorted(PAINT)


def test_every_sentence_is_in_every_catalogue() -> None:
    """A page half in English looks broken; ``python -m tools.docs.words`` prints the same list."""
    assert [path.stem for path in words.CATALOGUES] == SPOKEN
    assert words.problems() == []


def test_the_sentences_of_code_and_page_are_found() -> None:
    """A list that misses sentences would call every catalogue complete."""
    code = 'a(t("One {n}", { n: 1 })); at("no"); // t(later)\nconst b = t(\n  "Two \\"quoted\\"",\n);'
    assert words.literals(code, "x.js") == ["One {n}", 'Two "quoted"']
    for wrong in ("t(name)", "t(`One`)", 't("One" + two)'):
        with pytest.raises(words.SentenceError, match=r"x\.js: t\(\) needs a literal"):
            words.literals(wrong, "x.js")
    found = words.sentences()
    assert {"Choose a file", "Undo (Ctrl Z)", "Replace", "random"} <= found
    assert not {"inpaint keys create", "Inpaint", "1"} & found


@pytest.mark.slow
@pytest.mark.parametrize("spoken", SPOKEN)
def test_the_browsers_language_is_taken(fake: Served, visiting: Visiting, spoken: str) -> None:
    """Texts, labels and intents; nothing is cut off on a narrow window, where some languages are longer."""
    desk = Desk(visiting(locale=spoken), fake.url)
    expect(desk.page.locator("html")).to_have_attribute("lang", spoken)
    catalogue = words.catalogue(words.WEB / "js" / "words" / f"{spoken}.js")
    expect(desk.get("paint")).to_contain_text(PAINT[spoken])
    expect(desk.get("open-first")).to_have_text(catalogue["Choose a file"])
    desk.open(file_of(photo()))
    expect(desk.get("undo")).to_have_attribute("aria-label", catalogue["Undo"])
    expect(desk.get("prompt")).to_have_attribute("placeholder", catalogue["What should be there?"])
    for width in (360, 1280):
        desk.page.set_viewport_size({"width": width, "height": 700})
        assert desk.page.evaluate("() => document.documentElement.scrollWidth") == width
        wide = "(e) => [...e.children].filter((child) => child.scrollWidth > child.clientWidth).length"
        assert desk.page.locator("#intents").evaluate(wide) == 0


@pytest.mark.slow
def test_another_language_is_chosen_and_kept(fake: Served, visiting: Visiting) -> None:
    """A borrowed computer speaks its owner's language; what was being done survives the change."""
    desk = Desk(visiting(locale="pt-PT"), fake.url)
    expect(desk.page.locator("html")).to_have_attribute("lang", "en")
    desk.get("prompt").fill("ein Kreis")
    desk.wait_saved()
    with desk.page.expect_navigation():
        desk.get("language").select_option("de")
    expect(desk.get("paint")).to_contain_text("Malen")
    expect(desk.get("prompt")).to_have_value("ein Kreis")
    desk.reload()
    expect(desk.get("language")).to_have_value("de")
    expect(desk.get("paint")).to_contain_text("Malen")


@pytest.mark.slow
def test_numbers_are_written_as_in_the_language(fake: Served, visiting: Visiting) -> None:
    """A decimal comma where it is one; a seed is no amount, and is copied as it is."""
    desk = Desk(visiting(locale="de-AT"), fake.url)
    said = desk.page.evaluate(
        """async () => {
          const { t } = await import("./web/js/i18n.js");
          return t("{a} and {b} and {c}", { a: 1.5, b: 4294967296, c: "1.5" });
        }"""
    )
    assert said == "1,5 and 4294967296 and 1.5"


@pytest.mark.slow
def test_a_catalogue_that_does_not_come_leaves_english(fake: Served, visiting: Visiting) -> None:
    """A page in English is better than none."""
    visit = visiting(locale="fr")
    visit.expect_trouble("ERR_FAILED")
    visit.context.route("**/words/fr.js", lambda route: route.abort())
    desk = Desk(visit, fake.url)
    expect(desk.get("paint")).to_contain_text("Paint")
