"""A painter's afternoon at the studio on the demo model: select, paint, go on meanwhile, keep, save."""

import io
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.support.browser_session import Visit
from tests.support.page_driver import PAINTING_MS, Desk, opened
from tests.support.scenes import Scene, overlap, scene
from tests.support.served import Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def saved(desk: Desk, entry: str) -> bytes:
    """The file that an entry of the menu "Save as" gives."""
    desk.click("save-as")
    with desk.page.expect_download() as download:
        desk.click(entry)
    return download.value.path().read_bytes()


def mask_of(desk: Desk) -> np.ndarray:
    """(h, w) of what is marked."""
    return np.asarray(opened(saved(desk, "save-mask")).convert("L"))


@pytest.mark.slow
@pytest.mark.gate
def test_an_afternoon_at_the_studio(real: Served, visit: Visit) -> None:
    """Nothing is waited for, nothing is lost, and every step can be taken back, even after a reload."""
    drawn = scene("red disc on grass", (256, 256))
    desk = Desk(visit, real.url)
    desk.open(file_of(Image.fromarray(drawn.picture)), "scene.png")
    expect(desk.get("server-state")).to_have_text("demo · ready", timeout=PAINTING_MS)
    _select_the_object(desk, drawn)
    marked = mask_of(desk)

    # It is painted slowly, and meanwhile something else is marked, asked for and painted.
    desk.quick(steps=100)
    desk.get("field-scheduler").select_option("DPM2 Karras")
    desk.get("samples").select_option("4")
    desk.paint("a green circle")
    expect(desk.get("progress-text")).to_contain_text("of 90", timeout=PAINTING_MS)
    desk.click("tool-clear")
    desk.click("tool-rectangle")
    desk.stroke((10, 10), (70, 70))
    desk.quick()
    desk.paint("a blue square")
    expect(desk.get("job")).to_have_count(2)
    desk.get("job-cancel").first.click()
    desk.results(1)
    expect(desk.get("jobs")).to_be_hidden()
    slow, square = desk.sent()
    assert np.array_equal(np.asarray(opened(slow["mask"]).convert("L")), marked)
    assert np.asarray(opened(square["mask"]).convert("L"))[40, 40] == 255

    _keep_and_take_back(desk, drawn)
    _open_the_layers(saved(desk, "save-layers"), drawn)


def _select_the_object(desk: Desk, scene: Scene) -> None:
    """Draw a rough stroke over the object; the mask snaps to its edge."""
    top, left = (side.min() for side in np.nonzero(scene.truth))
    bottom, right = (side.max() for side in np.nonzero(scene.truth))
    middle, reach = (top + bottom) / 2, (right - left) / 5
    desk.click("tool-snap")
    desk.stroke(((left + right) / 2 - reach, middle), ((left + right) / 2 + reach, middle))
    desk.page.wait_for_function("() => document.getElementById('host').dataset.cursor !== 'wait'")
    expect(desk.get("undo")).to_be_enabled()
    assert overlap(mask_of(desk), scene.truth) >= 0.9


def _keep_and_take_back(desk: Desk, scene: Scene) -> None:
    """The result is the working picture, also after a reload; undo brings the first file back."""
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "true")  # the painter waited for it
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_contain_text("scene_inpainted_")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("picture-name")).to_contain_text("scene_inpainted_")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("scene.png")
    assert desk.downloaded() == ("scene.png", file_of(Image.fromarray(scene.picture)))
    desk.click("redo")
    expect(desk.get("picture-name")).to_contain_text("scene_inpainted_")
    desk.results(1).first.click()
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "true")


def _open_the_layers(data: bytes, scene: Scene) -> None:
    """What the page saves as OpenRaster opens elsewhere: each layer, and all of them merged."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    assert archive.read("mimetype") == b"image/openraster"
    stack = ElementTree.fromstring(archive.read("stack.xml"))
    assert (stack.get("w"), stack.get("h")) == ("256", "256")
    layers = list(stack.iter("layer"))
    assert len(layers) >= 2
    for layer in layers:
        opened(archive.read(str(layer.get("src"))))
    merged = np.asarray(opened(archive.read("mergedimage.png")).convert("RGB"))
    red, green, blue = merged[30:50, 30:50].reshape(-1, 3).mean(0)
    assert blue > max(red, green) + 40, "the square is blue"
    assert np.array_equal(merged[:, 150:], scene.picture[:, 150:]), "and the rest is the caller's own"
