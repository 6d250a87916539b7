"""The plugin in Debian's Krita under a virtual screen, against a real server with the demo model.

These tests need ``make test-krita``; without Krita they are skipped, and counted.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import PORTRAIT
from tests.support.krita import Krita, screen
from tests.support.programs import need
from tests.support.server_process import ServerProcess, accounts, cli, eventually, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BOX = (200, 300, 120, 100)  # x, y, width, height
FORM = {"prompt": "a blue heart", "seed": "4", "num_inference_steps": "20", "strength": "90", "samples": "1"}
REACH = 24  # grow + feather, at most, in pixels


@pytest.fixture(scope="module")
def krita(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Krita]:
    """Krita with a home of its own, in which the plugin is installed as ``inpaint krita install`` does it."""
    need("Krita")
    with screen() as display:
        yield Krita(tmp_path_factory.mktemp("home"), display)


@pytest.fixture(scope="module")
def server(krita: Krita, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``inpaint serve`` with the demo model."""
    command = cli(tmp_path_factory.mktemp("data"), "--device", "cpu", "--model", "demo")
    with ServerProcess(command) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portrait as a PNG, so that every reader sees the same pixels."""
    path = tmp_path_factory.mktemp("picture") / "portrait.png"
    with Image.open(PORTRAIT) as portrait:
        portrait.convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def given(server: ServerProcess, picture: Path) -> dict[str, Any]:
    """What every scenario is given."""
    return {"picture": str(picture), "box": BOX, "form": {**FORM, "url": server.url}}


def selected(shape: tuple[int, ...], reach: int = 0) -> NDArray[np.bool_]:
    """The pixels of the selection, and those nearer to it than ``reach``."""
    x, y, width, height = BOX
    outside = np.ones(shape[:2], np.uint8)
    outside[y : y + height, x : x + width] = 0
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach


def the_servers_own(server: ServerProcess, picture: Path, **fields: str) -> NDArray[np.uint8]:
    """What the server paints of the whole picture for the same settings."""
    with Image.open(picture) as image:
        mask = Image.fromarray(selected((image.height, image.width)).astype(np.uint8) * 255)
    file = io.BytesIO()
    mask.save(file, "PNG")
    answer = server.client.post(
        "/v1/sdxl-inpaint",
        data={**FORM, "strength": "0.9", "output_format": "png", **fields},
        files={"image": ("i.png", picture.read_bytes()), "mask": ("m.png", file.getvalue())},
    )
    assert answer.status_code == 200, answer.text
    return np.array(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def test_the_selection_is_repainted_as_a_layer_in_its_place(
    krita: Krita, server: ServerProcess, picture: Path, given: dict[str, Any]
) -> None:
    """What the painter sees is the server's picture, to the bit; one undo brings back the old one."""
    report = krita.play("paints", **given)
    assert report["busy"]
    assert report["text"].startswith("Done.")
    (layer,) = [node for node in report["painted"] if node["name"] == "a blue heart · seed 4"]
    assert layer["type"] == "paintlayer"
    assert report["painted"][-1] == layer, "it lies above the others"
    x, y, width, height = layer["box"]
    left, top, right, bottom = (
        BOX[0] - x,
        BOX[1] - y,
        x + width - BOX[0] - BOX[2],
        y + height - BOX[1] - BOX[3],
    )
    assert all(0 <= side <= REACH for side in (left, top, right, bottom))
    before, painted = report.pixels("before"), report.pixels("painted")
    assert np.array_equal(painted, the_servers_own(server, picture))
    assert np.array_equal(painted[~selected(before.shape, REACH)], before[~selected(before.shape, REACH)])
    assert (painted != before)[selected(before.shape)].any(axis=-1).mean() > 0.5
    assert np.array_equal(report.pixels("undone"), before)
    assert report["undone"] == report["before"]
    assert np.array_equal(report.pixels("redone"), painted)


def test_variations_are_a_group_of_layers(krita: Krita, given: dict[str, Any]) -> None:
    """The painter turns the layers on one by one; the first is shown, and one undo removes all of them."""
    report = krita.play("paints", **{**given, "form": {**given["form"], "samples": "3"}})
    (group,) = [node for node in report["painted"] if node["name"] == "a blue heart"]
    names = [f"a blue heart · seed {seed}" for seed in (6, 5, 4)]  # the last is on top
    assert [child["name"] for child in group["children"]] == names
    assert [child["visible"] for child in group["children"]] == [False, False, True]
    assert report["undone"] == report["before"]
    assert np.array_equal(report.pixels("undone"), report.pixels("before"))


def test_a_request_can_be_cancelled_and_the_next_one_is_painted(
    krita: Krita, server: ServerProcess, given: dict[str, Any]
) -> None:
    """Cancel frees the docker immediately, leaves the picture alone and stops the server's work."""
    painted = server.gauge("inpaint_images_total")
    report = krita.play("cancels", **given)
    assert report["cancel"]
    assert (report["text"], report["idle"]) == ("Cancelled.", True)
    assert [node["name"] for node in report["cancelled"]] == [
        node["name"] for node in report["painted"] if not node["name"].startswith("a blue heart")
    ]
    assert report["then"].startswith("Done.")
    eventually(lambda: server.gauge("inpaint_running") == 0)
    assert server.gauge("inpaint_images_total") == painted + 1, "not one of the cancelled four"


def test_an_error_is_a_sentence_in_the_docker(krita: Krita, given: dict[str, Any], tmp_path: Path) -> None:
    """No picture, no selection, no server, another program, a wrong key, a wrong seed."""
    with ServerProcess(program(tmp_path / "data")) as locked, accounts(tmp_path / "data") as books:
        locked.wait_ready()
        books.key()
        free = {"url": "http://127.0.0.1:9"}
        wrong = [free, {"url": "me@home"}, {"url": locked.url, "key": ""}, {"url": locked.url, "key": "no"}]
        wrong += [{"seed": "blue"}, {"prompt": ""}]
        said = krita.play("explains", **given, wrong=wrong)["said"]
    assert said[0] == "Open a picture first."
    assert said[1] == "Select what to repaint: the selection is the mask."
    assert said[2].startswith("There is no answer from http://127.0.0.1:9 ")
    assert said[3] == "The server's address must be like http://127.0.0.1:8000."
    assert "key" in said[4]
    assert "key" in said[5]
    assert said[6].startswith("seed: ")
    assert said[7].startswith("prompt: ")


def test_documents_of_16_bits_and_of_cmyk_have_the_layer_as_well(krita: Krita, given: dict[str, Any]) -> None:
    """Illustrators work in both; the layer is 8-bit sRGB, and lies where the selection is."""
    report = krita.play("other_depths", **{**given, "box": (100, 60, 80, 70)})
    for model in ("RGBA", "CMYKA"):
        assert report[f"{model}-text"].startswith("Done."), report[f"{model}-text"]
        before, painted = report.pixels(f"{model}-before"), report.pixels(f"{model}-painted")
        changed = (before != painted).any(axis=-1)
        assert changed[60:130, 100:180].mean() > 0.5
        changed[60 - REACH : 130 + REACH, 100 - REACH : 180 + REACH] = False
        assert not changed.any()


def test_a_picture_closed_meanwhile_is_a_sentence(krita: Krita, given: dict[str, Any]) -> None:
    """A closed document is gone for good, and Krita goes on."""
    assert krita.play("closes", **given)["text"] == "The picture was closed before its layer came."


def test_krita_can_be_left_while_it_is_painted(krita: Krita, given: dict[str, Any]) -> None:
    """The plugin's thread neither holds Krita open nor takes it down: ``play`` checks the exit code."""
    assert krita.play("leaves", **given).facts == {}


def test_what_was_entered_is_there_at_the_next_start(krita: Krita, given: dict[str, Any]) -> None:
    """The address, the key and the settings are kept in Krita's own settings."""
    krita.play("paints", **{**given, "form": {**given["form"], "negative_prompt": "grey", "key": "k1"}})
    values = krita.play("remembers", **given)["values"]
    assert values["url"] == given["form"]["url"]
    assert (values["negative_prompt"], values["key"]) == ("grey", "k1")
