"""What can be opened: every format that the server reads, what only the browser reads, and URLs."""

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import expect

from inpaint.images.codec import decode
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import PictureHost, Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

# A drag or a paste that brings text, as from another window; returns whether the page has taken it.
_BRING = """
([kind, target, type, text]) => {
  const data = new DataTransfer();
  data.setData(type, text);
  const how = { bubbles: true, cancelable: true };
  const made =
    kind === "paste"
      ? new ClipboardEvent(kind, { ...how, clipboardData: data })
      : new DragEvent(kind, { ...how, dataTransfer: data });
  document.querySelector(target).dispatchEvent(made);
  return made.defaultPrevented;
}
"""


def written(kind: str) -> bytes:
    """A photograph in a format, by Pillow's name."""
    if kind != "HEIF":
        return file_of(photo(), kind)
    file = io.BytesIO()
    pillow_heif.from_pillow(photo()).save(file, quality=90)
    return file.getvalue()


def brings(
    desk: Desk, kind: str, text: str, target: str = "#drop-picture", type_: str = "text/uri-list"
) -> bool:
    taken: bool = desk.page.evaluate(_BRING, [kind, target, type_, text])
    return taken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "result"),
    [("TIFF", "scan.tif", "png"), ("HEIF", "phone.heic", "jpg"), ("AVIF", "web.avif", "jpg")],
)
def test_a_format_of_the_server_is_shown_and_painted_on_itself(
    fake: Served, visit: Visit, kind: str, name: str, result: str
) -> None:
    """A phone's photograph: seen as it is painted, sent as the file that it is, and there after a reload."""
    data = written(kind)
    desk = Desk(visit, fake.url)
    desk.open(data, name)
    red, green, blue = desk.pixel(20, 30)
    expected = decode(data).image.convert("RGB").getpixel((20, 30))
    assert np.abs(np.subtract((red, green, blue), expected)).max() <= 2
    desk.stroke((50, 64), (78, 64))
    desk.wait_saved()
    desk.reload()
    expect(desk.get("picture-name")).to_have_text(name)
    desk.paint()
    desk.results(4)
    assert desk.sent()[0]["image"] == data
    saved, file = desk.downloaded()
    assert saved.endswith(f".{result}")
    assert opened(file).size == (128, 128)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("BMP", "old.bmp"), ("GIF", "web.gif")])
def test_a_format_of_the_browser_is_opened_as_png(fake: Served, visit: Visit, kind: str, name: str) -> None:
    """The server does not read it, so the page writes it again, and says so."""
    desk = Desk(visit, fake.url)
    desk.get("picture-picker").set_input_files({"name": name, "mimeType": "", "buffer": written(kind)})
    expect(desk.get("picture-name")).to_have_text(f"{name.partition('.')[0]}.png")
    expect(desk.get("notice")).to_contain_text(f"{name} is opened as a PNG of its first picture.")
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    desk.results(4)
    sent = opened(desk.sent()[0]["image"])
    assert sent.format == "PNG"
    expected = opened(written(kind)).convert("RGB")
    assert sent.convert("RGB").tobytes() == expected.tobytes()


@pytest.mark.slow
def test_a_mask_may_be_a_tiff(fake: Served, desk: Desk) -> None:
    """Photoshop saves masks so."""
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    desk.get("mask-picker").set_input_files(
        {"name": "m.tif", "mimeType": "", "buffer": file_of(mask, "TIFF")}
    )
    expect(desk.get("undo")).to_be_enabled()
    desk.paint()
    desk.results(4)
    assert opened(desk.sent()[0]["mask"]).convert("L").tobytes() == mask.tobytes()


@pytest.mark.slow
@pytest.mark.gate
def test_a_link_is_fetched_by_the_server(fake: Served, visit: Visit, picture_host: PictureHost) -> None:
    """Dragged from another window, or its address pasted; the page itself asks no other host."""
    desk = Desk(visit, fake.url)
    assert brings(desk, "drop", f"# a comment\r\n{picture_host.put('/a%20cat.jpg', written('JPEG'))}")
    expect(desk.get("picture-name")).to_have_text("a cat.jpg")
    assert brings(desk, "paste", picture_host.put("/scan", written("TIFF")), "body", "text/plain")
    expect(desk.get("picture-name")).to_have_text("scan.png")
    mask = Image.new("L", (128, 128), 255)
    assert brings(desk, "drop", picture_host.put("/mask.png", file_of(mask)), "#drop-mask")
    desk.paint()
    desk.results(4)
    assert opened(desk.sent()[0]["mask"]).convert("L").getextrema() == (255, 255)


@pytest.mark.slow
def test_a_link_to_no_picture_is_said(fake: Served, visit: Visit, picture_host: PictureHost) -> None:
    """The server's sentence; and the browser never leaves the page."""
    visit.expect_trouble("400|422")
    desk = Desk(visit, fake.url)
    assert brings(desk, "drop", picture_host.put("/page", b"<html><p>no</p></html>"))
    expect(desk.get("error")).to_contain_text("Image: is a web page (HTML), not a picture")
    assert brings(desk, "drop", "http://169.254.169.254/latest")
    expect(desk.get("error")).to_contain_text("it must lead to a public host")
    assert brings(desk, "drop", "only words", type_="text/plain")
    expect(desk.get("notice")).to_contain_text("What was dropped is neither a picture nor a link to one.")
    assert desk.page.url == f"{fake.url}/"


@pytest.mark.slow
def test_text_is_dropped_and_pasted_into_fields_as_text(fake: Served, visit: Visit) -> None:
    """An address may be part of a prompt."""
    desk = Desk(visit, fake.url)
    for kind in ("dragover", "drop", "paste"):
        assert not brings(desk, kind, "https://example.org/a.jpg", "#prompt", "text/plain")
    expect(desk.get("notice")).to_have_count(0)
