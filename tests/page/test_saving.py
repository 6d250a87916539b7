"""What can be saved beyond the picture: the mask, a cut-out, layers; and the clipboard."""

import io
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.support.browser_session import Visiting
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import Served, colour_of, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def saved(desk: Desk, what: str) -> tuple[str, bytes]:
    """Name and bytes of what an entry of the menu saves."""
    desk.click("save-as")
    with desk.page.expect_download() as download:
        desk.click(f"save-{what}")
    return download.value.suggested_filename, download.value.path().read_bytes()


def painted(desk: Desk) -> None:
    """A stroke in the middle, in two variations."""
    desk.get("samples").select_option("2")
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    desk.results(2)


@pytest.mark.slow
def test_the_mask_is_saved_as_it_is_sent(fake: Served, desk: Desk) -> None:
    """To go on with it in another program, or here tomorrow."""
    desk.click("save-as")
    desk.click("save-mask")
    expect(desk.get("error")).to_contain_text("There is no mask yet")
    painted(desk)
    name, data = saved(desk, "mask")
    assert name == "photo_mask.png"
    assert opened(data).convert("L").tobytes() == opened(desk.sent()[0]["mask"]).convert("L").tobytes()


@pytest.mark.slow
def test_what_was_painted_is_cut_out(fake: Served, desk: Desk) -> None:
    """Laid over the picture at the place in its name, it gives the result; what was not painted is clear."""
    desk.click("save-as")
    desk.click("save-patch")
    expect(desk.get("error")).to_contain_text("Select a result first.")
    painted(desk)
    name, data = saved(desk, "patch")
    patch = opened(data)
    left, top = (int(part[1:]) for part in name.removesuffix(".png").split("_")[-2:])
    assert name.startswith("photo_patch_")
    assert patch.mode == "RGBA"
    assert patch.width < 128
    assert patch.getpixel((0, 0))[3] == 0
    whole = photo().convert("RGBA")
    whole.alpha_composite(patch, (left, top))
    assert whole.getpixel((64, 64))[:3] == colour_of(int(name.split("_")[2]))
    _, result = desk.downloaded()
    assert np.array_equal(np.asarray(whole.convert("RGB")), np.asarray(opened(result).convert("RGB")))


@pytest.mark.slow
@pytest.mark.gate
def test_layers_are_saved_as_openraster(fake: Served, desk: Desk) -> None:
    """The picture below, each variation above it; the one that was selected is seen."""
    painted(desk)
    desk.get("prompt").fill("ignored")
    name, data = saved(desk, "layers")
    assert name == "photo_layers.ora"
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert archive.infolist()[0].filename == "mimetype"
    assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.read("mimetype") == b"image/openraster"
    image = ElementTree.fromstring(archive.read("stack.xml"))
    assert (image.get("w"), image.get("h")) == ("128", "128")
    layers = list(image.iter("layer"))
    assert [layer.get("visibility") for layer in layers] == ["visible", "hidden", "visible"]
    assert layers[-1].get("name") == "photo.png"
    assert str(layers[0].get("name")).endswith(": a red circle")
    seen = Image.new("RGBA", (128, 128))
    for layer in reversed(layers):
        if layer.get("visibility") == "visible":
            place = (int(str(layer.get("x"))), int(str(layer.get("y"))))
            seen.alpha_composite(opened(archive.read(str(layer.get("src")))).convert("RGBA"), place)
    merged = opened(archive.read("mergedimage.png")).convert("RGBA")
    assert seen.tobytes() == merged.tobytes()
    assert max(opened(archive.read("Thumbnails/thumbnail.png")).size) <= 256


@pytest.mark.slow
def test_the_picture_is_copied(fake: Served, visiting: Visiting) -> None:
    """Into a mail or a chat, without a file between."""
    visit = visiting(permissions=["clipboard-read", "clipboard-write"])
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    desk.click("save-as")
    desk.click("save-copy")
    expect(desk.get("notice")).to_contain_text("The picture is on the clipboard.")
    size = desk.page.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          const bitmap = await createImageBitmap(await item.getType("image/png"));
          return [bitmap.width, bitmap.height];
        }"""
    )
    assert size == [128, 128]


@pytest.mark.slow
def test_a_browser_that_copies_no_picture_says_so(fake: Served, visiting: Visiting) -> None:
    """Over plain HTTP from another machine there is no clipboard to write to."""
    visit = visiting()
    visit.context.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    desk.click("save-as")
    desk.click("save-copy")
    expect(desk.get("error")).to_contain_text("only over https or from this machine")
