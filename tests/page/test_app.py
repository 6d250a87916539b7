"""What the page does around the picture, on an engine that the test moves: progress, results, files."""

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import expect
from safetensors.numpy import save_file

from inpaint.images.codec import decode
from inpaint.images.made import Made
from inpaint.images.metadata import write
from inpaint.request import InpaintResult
from inpaint.schedulers import unet_calls
from server.dialects.discovery import field_offers
from server.models import Models
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import FakeEngine, Serve, Served, colour_of, file_of, white_box

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def painted(desk: Desk, seed: int = 7, samples: int = 1) -> None:
    """A stroke in the middle, painted."""
    desk.stroke((50, 64), (78, 64))
    desk.get("samples").select_option(str(samples))
    desk.get("seed").fill(str(seed))
    desk.paint()
    desk.results(samples)


# While it is painted.


@pytest.mark.slow
@pytest.mark.gate
def test_every_step_is_shown_with_a_preview_and_the_time_that_is_left(fake: Served, desk: Desk) -> None:
    """A user who waits sees the progress and a preview."""
    engine = engine_of(fake)
    engine.held = True
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    expect(desk.get("progress-text")).to_have_text("Waiting for its turn…")
    ticket = engine.next()
    fake.do(engine.step, ticket, 1)
    expect(desk.get("progress-text")).to_have_text("Step 1 of 22")
    fake.do(engine.step, ticket, 1)
    expect(desk.get("progress-text")).to_contain_text("Step 2 of 22 · ")
    expect(desk.get("progress-text")).to_contain_text(" left")
    bar = desk.get("progress").get_by_role("progressbar", name="Painting")
    assert bar.evaluate("(bar) => bar.value") == pytest.approx(2 / 22)
    assert desk.pixel(64, 64)[0] > 200, "the engine's preview is red"
    fake.do(engine.paint, ticket)
    desk.results(4)
    expect(desk.get("progress")).to_be_hidden()
    assert len(engine.requests) == 1


@pytest.mark.slow
@pytest.mark.gate
def test_cancel_stops_it_and_the_next_one_is_painted(fake: Served, desk: Desk) -> None:
    """By button or Esc; no picture comes, nothing is said to have failed, the mask stays."""
    engine = engine_of(fake)
    engine.held = True
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    first = engine.next()
    desk.page.keyboard.press("Escape")
    expect(desk.get("progress")).to_be_hidden()
    assert first.finished
    expect(desk.get("error")).to_have_count(0)
    desk.click("paint")
    second = engine.next()
    fake.do(engine.step, second, 1)
    desk.click("cancel")
    expect(desk.get("paint")).to_be_focused()
    assert second.finished
    engine.held = False
    desk.click("paint")
    desk.results(4)
    expect(desk.get("error")).to_have_count(0)


@pytest.mark.slow
def test_a_waiting_request_shows_how_many_are_before_it(fake: Served, desk: Desk) -> None:
    """A busy server is no broken one."""
    engine = engine_of(fake)
    fake.do(engine.door.clear)
    turns = 2 * fake.settings.max_rows
    with fake.calling() as client:
        image, mask = file_of(photo((48, 32))), file_of(white_box((48, 32)))
        for _ in range(turns + 2):
            form = {"prompt": "x"}
            client.post(
                "/v2/sdxl-inpaint", data=form, files={"image": image, "mask": mask}
            ).raise_for_status()
        desk.stroke((50, 64), (78, 64))
        desk.paint()
        expect(desk.get("progress-text")).to_have_text(f"Waiting: {turns + 2} before this one.")
    fake.do(engine.door.set)
    desk.results(4)


@pytest.mark.slow
def test_what_should_be_known_of_the_answer_is_said(fake: Served, desk: Desk) -> None:
    """A prompt that was cut paints something else than was asked for."""
    engine = engine_of(fake)
    engine.held = True
    desk.stroke((50, 64), (78, 64))
    desk.get("samples").select_option("1")
    desk.paint()
    ticket = engine.next()
    warning = "The prompt was cut after 225 tokens."
    result = InpaintResult([photo()], ticket.seeds, (0, 0, 128, 128), warnings=(warning,))
    fake.do(ticket.finish, result)
    expect(desk.get("warning")).to_have_text(warning)


# Results.


@pytest.mark.slow
def test_four_variations_have_their_seeds_and_each_is_kept_or_discarded(fake: Served, desk: Desk) -> None:
    """Of four pictures one is taken; what was thrown away by mistake comes back."""
    painted(desk, seed=7, samples=4)
    assert desk.get("result").all_inner_texts() == ["7", "8", "9", "10"]
    expect(desk.get("result").nth(0)).to_have_attribute("aria-pressed", "true")
    assert desk.sees(64, 64, colour_of(7))
    desk.get("result").nth(0).press("ArrowRight")
    expect(desk.get("result").nth(1)).to_be_focused()
    expect(desk.get("result-title")).to_have_text("Seed 8")
    desk.page.keyboard.press("Delete")
    expect(desk.get("result")).to_have_count(3)
    expect(desk.get("result-title")).to_have_text("Seed 9")
    desk.get("notice").get_by_role("button", name="Bring it back").click()
    assert desk.results(4).all_inner_texts() == ["7", "8", "9", "10"]
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_9.png")
    assert desk.sees(64, 64, colour_of(9))
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")


@pytest.mark.slow
def test_results_are_compared_by_the_pixel(fake: Served, desk: Desk) -> None:
    """A divider with the picture on its left, the whole picture while a button or the space bar is held."""
    painted(desk)
    own, new = photo().getpixel((60, 64)), colour_of(7)
    assert desk.sees(60, 64, new)
    assert desk.pixel(70, 64) == new
    desk.page.keyboard.press("c")
    assert desk.sees(50, 60, photo().getpixel((50, 60)))  # clear of the shadow of the handle
    assert desk.sees(70, 60, new)
    divider = desk.page.locator(".editor-divider")
    divider.focus()
    divider.press("End")
    expect(divider).to_have_attribute("aria-valuenow", "100")
    assert desk.sees(70, 60, photo().getpixel((70, 60)))
    desk.page.keyboard.press("c")
    eye = desk.get("original")
    eye.hover()
    desk.page.mouse.down()
    assert desk.sees(60, 64, own)
    desk.page.mouse.up()
    assert desk.sees(60, 64, new)
    desk.get("canvas").focus()
    desk.page.keyboard.down(" ")
    assert desk.sees(60, 64, own)
    desk.page.keyboard.up(" ")
    assert desk.sees(60, 64, new)


@pytest.mark.slow
def test_a_locked_seed_is_sent_and_an_open_one_is_not(fake: Served, desk: Desk) -> None:
    """Locked, the same picture comes again; open, each painting is a new one."""
    painted(desk, seed=7)
    expect(desk.get("lock-seed")).to_have_attribute("aria-pressed", "true")
    desk.click("lock-seed")
    desk.click("paint")
    desk.results(2)
    new = int(desk.get("result").first.inner_text())
    expect(desk.get("seed")).to_have_value(str(new))
    desk.click("result-lockSeed")
    desk.click("paint")
    desk.results(3)
    assert [form["seed"] for form in desk.sent()] == [b"7", b"-1", str(new).encode()]


@pytest.mark.slow
def test_a_result_is_dragged_onto_the_picture(fake: Served, desk: Desk) -> None:
    """The shortest way from the strip to going on with it."""
    painted(desk, seed=7, samples=2)
    desk.get("result").nth(1).drag_to(desk.get("canvas"))
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_8.png")
    assert desk.sees(64, 64, colour_of(8))


@pytest.mark.slow
def test_a_result_gives_its_settings_back(fake: Served, desk: Desk) -> None:
    """Going on from the third last try, whatever was tried since."""
    desk.get("intent-remove").check()
    painted(desk)
    desk.get("intent-refine").check()
    desk.get("prompt").fill("another")
    desk.click("result-takeOver")
    expect(desk.get("intent-remove")).to_be_checked()
    expect(desk.get("prompt")).to_have_value("a red circle")


# What is sent.


PRESETS: dict[str, dict[str, str]] = {
    "replace": {"strength": "0.9", "fill": "original", "soft": "false"},
    "remove": {"strength": "0.99", "fill": "telea", "soft": "false"},
    "add": {"strength": "0.99", "fill": "original", "soft": "true"},
    "refine": {"strength": "0.45", "fill": "original", "soft": "false"},
    "extend": {"strength": "0.99", "fill": "original", "soft": "false"},
}


@pytest.mark.slow
def test_an_intent_is_a_set_of_fields(fake: Served, desk: Desk) -> None:
    """No user has to know what a strength of 0.45 is; experts see it under Advanced."""
    desk.page.click("#advanced summary")
    painted(desk)
    for number, (intent, fields) in enumerate(PRESETS.items()):
        desk.get(f"intent-{intent}").check()
        expect(desk.get("field-strength")).to_have_value(fields["strength"])
        desk.click("paint")
        desk.results(number + 2)
        sent = desk.sent()[-1]
        assert {name: sent[name].decode() for name in fields} == fields
    assert (sent["output_format"], sent["samples"], sent["seed"]) == (b"png", b"1", b"7")


@pytest.mark.slow
def test_fast_is_a_sampler_and_its_steps(fake: Served, desk: Desk) -> None:
    """Who tries ideas waits less than half as long, knowing no sampler by name, and finds the way back."""
    defaults = {offer.name: str(offer.default) for offer in field_offers(Models.parse("demo"))}
    desk.page.click("#advanced summary")
    scheduler, steps = desk.get("field-scheduler"), desk.get("field-num_inference_steps")
    speed = desk.get("speed")
    expect(speed).to_have_value("normal")
    speed.select_option("fast")
    expect(scheduler).to_have_value("DPM Multi Karras")
    painted(desk)
    sent = desk.sent()[-1]
    fast = unet_calls(sent["scheduler"].decode(), int(sent["num_inference_steps"]), 0.9)
    assert fast < unet_calls(defaults["scheduler"], int(defaults["num_inference_steps"]), 0.9) / 2
    desk.wait_saved()
    desk.reload()
    expect(speed).to_have_value("fast")
    desk.page.click("#advanced summary")
    steps.fill("60")
    steps.press("Tab")
    expect(speed).to_have_value("custom")
    speed.select_option("normal")
    expect(scheduler).to_have_value(defaults["scheduler"])
    expect(steps).to_have_value(defaults["num_inference_steps"])


@pytest.mark.slow
def test_every_field_of_the_server_is_under_advanced(fake: Served, desk: Desk) -> None:
    """All knobs, within the server's ranges; what a person sets is what is sent."""
    desk.page.click("#advanced summary")
    elsewhere = {
        "prompt",
        "samples",
        "seed",
        "extend",
        "output_format",
        "quality",
        "base64",
        "metadata",
        "answer",  # the page composes its pictures itself
        "loras",
        "pace",
        "lengths",  # of the page suit every picture
        "mask_channel",  # the page paints its masks itself
        "invert_mask",
        "resize_mask",
    }
    offers = {
        offer.name: offer for offer in field_offers(Models.parse("demo")) if offer.name not in elsewhere
    }
    chosen: dict[str, str] = {"negative_prompt": "blur", "guidance_interval": "0.1,0.9"}
    for name, offer in offers.items():
        control = desk.get(f"field-{name}")
        if offer.kind == "choice":
            chosen[name] = offer.choices[-1]
            control.select_option(chosen[name])
        elif offer.kind == "boolean":
            chosen[name] = str(not offer.default).lower()
            control.set_checked(not offer.default)
        elif offer.kind in ("integer", "number"):
            assert offer.maximum is not None
            control.fill(str(offer.maximum + 1))
            control.press("Tab")
            chosen[name] = f"{offer.maximum:g}"
            expect(control).to_have_value(chosen[name])
        else:
            control.fill(chosen[name])
            control.press("Tab")
    painted(desk)
    sent = desk.sent()[0]
    assert {name: sent[name].decode() for name in chosen} == chosen
    assert set(offers) <= set(sent)


@pytest.mark.slow
def test_the_servers_loras_are_chosen_with_their_strengths(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    """Styles by name; those left at 0 are not used; an earlier result gives its own back."""
    for name in ("ink", "oil"):
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / f"{name}.safetensors")
    desk = Desk(visit, serve(loras=tmp_path).url)
    desk.open(file_of(photo()))
    desk.page.click("#advanced summary")
    desk.get("lora-oil").fill("0.7")
    painted(desk)
    assert desk.sent()[0]["loras"] == b"oil:0.7"
    made = Made({"prompt": "x", "loras": [{"name": "ink", "scale": 0.5}]})
    desk.drop(write(photo(), decode(file_of(photo())), made, "PNG"), "earlier.png")
    desk.get("settings-found").get_by_role("button", name="Use its settings").click()
    expect(desk.get("lora-ink")).to_have_value("0.5")
    expect(desk.get("lora-oil")).to_have_value("0")


@pytest.mark.slow
def test_what_a_picture_says_and_we_lack_is_said(fake: Served, visit: Visit) -> None:
    """A picture of another program is not painted again with another sampler without a word."""
    texts = PngInfo()
    texts.add_text("parameters", "a cat\nSteps: 20, Sampler: Restart, CFG scale: 7, Seed: 5")
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo(), "PNG", pnginfo=texts))
    found = desk.get("settings-found")
    expect(found).to_contain_text("“a cat”. Not as it says: its sampler 'Restart' is not one of ours.")
    found.get_by_role("button", name="Use its settings").click()
    expect(desk.get("prompt")).to_have_value("a cat")


@pytest.mark.slow
def test_what_is_missing_is_said_and_led_to(fake: Served, visit: Visit) -> None:
    """The Paint button always answers: picture, mark, prompt, in this order."""
    desk = Desk(visit, fake.url)
    desk.click("paint")
    expect(desk.get("notice")).to_contain_text("Open a picture first.")
    desk.open(file_of(photo()))
    desk.click("paint")
    expect(desk.get("notice")).to_contain_text("Mark what should change first")
    expect(desk.get("canvas")).to_be_focused()
    desk.stroke((50, 64), (78, 64))
    desk.click("paint")
    expect(desk.get("notice")).to_contain_text("Say what should be painted.")
    expect(desk.get("prompt")).to_be_focused()
    desk.get("intent-remove").check()
    desk.click("paint")
    desk.results(4)


# Files.


@pytest.mark.slow
def test_a_mask_comes_from_a_file_by_drop_or_button(fake: Served, desk: Desk) -> None:
    """White is repainted, exactly; a mask of another size is refused with both sizes, and nothing is lost."""
    mask = white_box((128, 128))
    desk.drop(file_of(mask), "mask.png", "drop-mask")
    desk.drop(file_of(white_box((64, 64))), "mask.png", "drop-mask")
    expect(desk.get("error")).to_contain_text("64 × 64")
    desk.paint()
    desk.results(4)
    assert np.array_equal(np.asarray(opened(desk.sent()[0]["mask"]).convert("L")), np.asarray(mask))
    with desk.page.expect_file_chooser() as chooser:
        desk.click("tool-upload")
    chooser.value.set_files({"name": "m.png", "mimeType": "image/png", "buffer": file_of(mask)})
    expect(desk.get("result-title")).not_to_contain_text("Seed")  # the mask is seen again


@pytest.mark.slow
def test_the_pictures_transparency_is_a_mask(fake: Served, visit: Visit) -> None:
    """Cut out in another program, filled here."""
    picture = photo().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 64, 128))
    desk = Desk(visit, fake.url)
    desk.open(file_of(picture))
    desk.click("tool-alpha")
    desk.paint()
    desk.results(4)
    mask = np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))
    assert mask[:, :64].min() == 255
    assert mask[:, 64:].max() == 0


@pytest.mark.slow
def test_a_picture_is_pasted(fake: Served, visit: Visit) -> None:
    """A screenshot, straight from the clipboard; text in a field is pasted as text."""
    desk = Desk(visit, fake.url)
    paste = """([base64]) => {
      const data = new DataTransfer();
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      data.items.add(new File([bytes], "image.png", { type: "image/png" }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    }"""
    desk.page.evaluate(paste, [base64.b64encode(file_of(photo())).decode()])
    expect(desk.get("picture-name")).to_have_text("pasted.png")


BROKEN = {
    "notes.png": (b"no picture", "notes.png is not a PNG, JPEG, WebP, AVIF, TIFF or HEIC picture."),
    "cut.png": (file_of(photo())[:400], "cut.png cannot be opened"),
    "empty.png": (b"", "empty.png is empty."),
    "tiny.png": (file_of(Image.new("RGB", (8, 8))), "tiny.png is 8 × 8 pixels"),
}


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_is_said_and_nothing_is_lost(fake: Served, desk: Desk) -> None:
    """One sentence with the file's name; picture and mask stay."""
    desk.stroke((50, 64), (78, 64))
    for name, (data, said) in BROKEN.items():
        desk.drop(data, name)
        expect(desk.get("error")).to_contain_text(said)
        expect(desk.get("picture-name")).to_have_text("photo.png")
    desk.paint()
    desk.results(4)


@pytest.mark.slow
def test_another_picture_can_be_taken_back(fake: Served, desk: Desk) -> None:
    """A file dropped by mistake costs no strokes."""
    desk.stroke((50, 64), (78, 64))
    desk.open(file_of(photo((64, 96))), "other.png")
    expect(desk.get("picture-size")).to_have_text("64 × 96")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")
    desk.paint()
    desk.results(4)
    assert np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))[64, 64] == 255


@pytest.mark.slow
def test_a_picture_that_was_not_painted_on_is_downloaded_as_it_came(fake: Served, visit: Visit) -> None:
    """Byte for byte; the page never writes over what it did not make."""
    data = file_of(photo(), "JPEG", quality=60, comment=b"mine")
    desk = Desk(visit, fake.url)
    desk.open(data, "mine.jpg")
    assert desk.downloaded() == ("mine.jpg", data)


@pytest.mark.slow
def test_a_result_that_the_server_has_forgotten_is_still_downloaded(own: Served, visit: Visit) -> None:
    """After a week the server deletes pictures; the browser has its own copy, and says what it lacks."""
    desk = Desk(visit, own.url)
    desk.open(file_of(photo(), "JPEG"), "mine.jpg")
    painted(desk)
    (request_id,) = {path.parent.name for path in (own.settings.data / "pictures").glob("*/*")}
    own.parts.blobs.delete(request_id)
    visit.expect_trouble("404")
    name, data = desk.downloaded()
    found = opened(data)
    assert (name, found.format, found.size) == ("mine_inpainted_7.jpg", "JPEG", (128, 128))
    expect(desk.get("notice")).to_contain_text("The server no longer has this picture")
