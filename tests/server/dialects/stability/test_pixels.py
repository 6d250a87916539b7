"""The promises of ``/v2beta`` with a model that paints: what is kept is kept bit for bit."""

from collections.abc import Iterator

import pytest
from PIL import Image

from tests.support.examples import gated
from tests.support.served import file_of, opened
from tests.support.server_process import ServerProcess, cli

EDIT = "/v2beta/stable-image/edit"
SIZE = (192, 128)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``inpaint serve`` with the demo model."""
    with ServerProcess(cli(tmp_path_factory.mktemp("data"), "--device", "cpu")) as server:
        yield server.wait_ready()


def picture() -> Image.Image:
    """Two colours, so that each part shows where it is."""
    image = Image.new("RGB", SIZE, "teal")
    image.paste("gold", (0, 0, 40, 128))
    return image


def edited(server: ServerProcess, route: str, files: dict[str, bytes], **fields: object) -> Image.Image:
    """Send a form, and return the picture of the answer."""
    answer = server.client.post(
        f"{EDIT}/{route}", files=files, data={"seed": 4, **fields}, headers={"accept": "image/*"}
    )
    assert answer.status_code == 200, answer.text
    assert (answer.headers["seed"], answer.headers["finish-reason"]) == ("4", "SUCCESS")
    return opened(answer.content)


@pytest.mark.slow
@pytest.mark.parametrize("route", gated(["inpaint", "erase"], "inpaint"))
def test_pixels_away_from_the_mask_are_kept(demo: ServerProcess, route: str) -> None:
    """``grow_mask`` pixels around it are painted, and as many blended."""
    mask = Image.new("L", SIZE)
    mask.paste(255, (100, 40, 150, 90))
    files = {"image": file_of(picture()), "mask": file_of(mask)}
    painted = edited(demo, route, files, prompt="a red circle", grow_mask=6)
    kept = painted.copy()
    kept.paste(picture().crop((88, 28, 162, 102)), (88, 28))
    assert kept.tobytes() == picture().tobytes()
    assert painted.tobytes() != picture().tobytes()


@pytest.mark.slow
def test_outpaint_keeps_the_old_picture_but_for_its_blend(demo: ServerProcess) -> None:
    """The new pixels are on the named side, and the seam is no wider than elsewhere in this server."""
    painted = edited(demo, "outpaint", {"image": file_of(picture())}, prompt="background", right=64)
    assert painted.size == (256, 128)
    blended = 5  # pixels at this size: grow and feather together
    old = (0, 0, SIZE[0] - blended, SIZE[1])
    assert painted.crop(old).tobytes() == picture().crop(old).tobytes()
