"""The hosted API's own clients against a server process: its unmodified SDK, and the program in its docs."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from segmind import InferenceFailed, SegmindClient, SegmindError

from tests.support.paths import ROOT
from tests.support.server_process import ServerProcess, accounts, cli, opened, picture_host, program

IMAGES = ROOT / "docs" / "images"
PHOTO, MASK = ((IMAGES / name).read_bytes() for name in ("portrait.jpg", "portrait_patch_mask.png"))
SLUG = "sdxl-inpaint"
QUICK = {"scheduler": "DDIM", "num_inference_steps": 20, "seed": 7}
CREDITS = 1.0

# From the hosted API's page, unchanged except for the host of its two pictures.
DOCUMENTED = {
    "image": "{host}/sdxl_inpaint.jpeg",
    "mask": "{host}/sdxl_inpaint_mask.png",
    "prompt": "A man with black sun glasses",
    "negative_prompt": "bad quality, painting, blur",
    "samples": 1,
    "scheduler": "DDIM",
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "seed": 12467,
    "strength": 0.9,
    "base64": False,
}

Connect = Callable[..., SegmindClient]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Serve twice: ``inpaint serve`` with metering; the demo model with a fault, fetching from loopback."""
    metered, open_ = tmp_path_factory.mktemp("metered"), tmp_path_factory.mktemp("open")
    with accounts(metered) as books:
        keys = {"rich": books.key(CREDITS)[1], "poor": books.key()[1]}
    files = {"/sdxl_inpaint.jpeg": PHOTO, "/sdxl_inpaint_mask.png": MASK}
    with (
        picture_host(files) as (port, asked),
        ServerProcess(cli(metered, "--device", "cpu"), metering=True, price=0.001) as plain,
        ServerProcess(
            program(open_, stub=False, faults="nan@1+:prompt=blank", fetch_port=port, model="demo")
        ) as odd,
    ):
        plain.wait_ready()
        odd.wait_ready()
        yield {"plain": plain, "odd": odd, "keys": keys, "host": f"http://127.0.0.1:{port}", "asked": asked}


@pytest.fixture
def connect(servers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Return a function of (server, name of a key) that makes the SDK's client; only its base URL differs."""
    monkeypatch.delenv("SEGMIND_API_KEY", raising=False)
    clients: list[SegmindClient] = []

    def make(server: str = "plain", key: str | None = "rich") -> SegmindClient:
        token = servers["keys"].get(key, key)
        base_url = f"http://127.0.0.1:{servers[server].port}/v1"
        clients.append(SegmindClient(api_key=token, base_url=base_url, timeout=300))
        return clients[-1]

    yield make
    for client in clients:  # the SDK never closes its connections
        client._client.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def paint(**fields: object) -> dict[str, Any]:
    return {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "a red circle", **QUICK, **fields}


def differs(data: bytes) -> tuple[float, float]:
    """Return the mean difference to the photograph, 0 to 255: inside the mask, and away from it."""
    before, after = (np.asarray(Image.open(io.BytesIO(d)).convert("RGB"), dtype=int) for d in (PHOTO, data))
    inside = np.asarray(Image.open(io.BytesIO(MASK)).convert("L")) > 127
    difference = np.abs(before - after).mean(axis=2)
    return float(difference[inside].mean()), float(difference[:20].mean())


@pytest.mark.slow
def test_run_sync_is_a_picture_and_its_price(connect: Connect, servers: dict[str, Any]) -> None:
    """The SDK's v1 call returns the picture's bytes, and headers with the price."""
    response = connect().run_sync(SLUG, **paint())
    assert response.headers["content-type"] == "image/jpeg"
    assert opened(response.content).size == opened(PHOTO).size
    inside, outside = differs(response.content)
    assert inside > 15
    assert outside < 3, "only JPEG's own loss"
    width, height = opened(PHOTO).size
    assert float(response.headers["x-cost"]) == pytest.approx(18 * width * height / 1e6 * 0.001, abs=2e-6)
    assert float(response.headers["x-remaining-credits"]) < CREDITS


@pytest.mark.slow
def test_the_readme_shows_how(servers: dict[str, Any]) -> None:
    """The README's lines work unchanged, except for the port."""
    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "segmind" in block)
    names: dict[str, Any] = {"key": servers["keys"]["rich"], "body": paint()}
    exec(code.replace(":8000", f":{servers['plain'].port}"), names)
    try:
        assert requests.get(names["picture_url"], timeout=30).content == names["picture"]
    finally:
        names["client"]._client.close()


@pytest.mark.slow
def test_run_polls_until_its_picture_is_there(connect: Connect) -> None:
    """The SDK's default since 1.1.0 is v2, with its own URLs and states; the picture opens without a key."""
    done = connect().run(SLUG, **paint(samples=2))
    assert done["status"] == "COMPLETED"
    assert done["seed"] == 7
    assert done["prompt"] == "a red circle"
    assert [image["content_type"] for image in done["images"]] == ["image/jpeg"] * 2
    assert done["output"] == done["images"][0]["url"]
    response = requests.get(done["output"], timeout=60)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert opened(response.content).size == opened(PHOTO).size


@pytest.mark.slow
def test_submit_async_waits_and_can_be_asked_again(connect: Connect) -> None:
    """The handle's methods work: wait, status and result."""
    job = connect().submit_async(SLUG, **paint())
    assert job.submit_response["status"] == "QUEUED"
    done = job.wait(timeout=300, interval=0.1)
    assert done["metrics"]["cost"] > 0
    assert job.status()["status"] == "COMPLETED"
    assert job.result() == done


@pytest.mark.slow
def test_a_failed_job_is_the_sdks_own_exception(connect: Connect) -> None:
    """A failed painting raises InferenceFailed with our sentence on v2, and status 500 on v1."""
    job = connect("odd", None).submit_async(SLUG, **paint(prompt="blank"))
    with pytest.raises(InferenceFailed) as failed:
        job.wait(interval=0.1)
    assert failed.value.detail
    assert failed.value.status_body["status"] == "FAILED"
    assert job.result()["error"] == failed.value.detail
    with pytest.raises(SegmindError) as refused:
        connect("odd", None).run_sync(SLUG, **paint(prompt="blank"))
    assert refused.value.status == 500
    assert failed.value.detail in str(refused.value.detail)


@pytest.mark.parametrize("call", ["run", "run_sync"])
def test_a_bad_picture_is_refused_immediately(connect: Connect, call: str) -> None:
    """Status and sentence arrive where the SDK looks for them, on v1 and v2."""
    with pytest.raises(SegmindError) as refused:
        getattr(connect(), call)(SLUG, **paint(mask="bm90IGEgcGljdHVyZQ=="))
    assert refused.value.status == 400
    assert str(refused.value.detail).startswith("mask: ")


@pytest.mark.parametrize("call", ["run", "run_sync"])
def test_no_credits_is_406_and_says_credits(connect: Connect, call: str) -> None:
    """Clients look for the word as well as for the status."""
    with pytest.raises(SegmindError) as refused:
        getattr(connect(key="poor"), call)(SLUG, **paint())
    assert refused.value.status == 406
    assert "credits" in str(refused.value.detail)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("SG_0123456789abcdef", "Unauthorized. API key is invalid or may have expired."),
        (None, "Missing Authorization or x-api-key in header"),
    ],
)
def test_a_bad_key_is_401(connect: Connect, key: str | None, sentence: str) -> None:
    """The error has the hosted API's wording."""
    with pytest.raises(SegmindError) as refused:
        connect(key=key).run_sync(SLUG, **paint())
    assert (refused.value.status, refused.value.detail) == (401, sentence)


def documented(server: ServerProcess, host: str, key: str) -> requests.Response:
    """Run the program from the hosted API's page."""
    url = f"{server.url}/v1/sdxl-inpaint"
    body = {
        name: str(value).format(host=host) if name in ("image", "mask") else value
        for name, value in DOCUMENTED.items()
    }
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    return requests.post(url, json=body, headers=headers, timeout=300)


@pytest.mark.slow
def test_the_documented_program_runs_with_another_host(servers: dict[str, Any]) -> None:
    """A user of the hosted API changes one line."""
    servers["asked"].clear()
    with closing(documented(servers["odd"], servers["host"], "any")) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
        assert response.headers["x-seed-value"] == "12467"
        assert opened(response.content).size == opened(PHOTO).size
        assert differs(response.content)[0] > 15
    assert sorted(servers["asked"]) == ["/sdxl_inpaint.jpeg", "/sdxl_inpaint_mask.png"]


def test_but_the_server_does_not_look_inside(servers: dict[str, Any]) -> None:
    """``inpaint serve`` refuses to fetch from loopback, and no setting allows it."""
    servers["asked"].clear()
    with closing(documented(servers["plain"], servers["host"], servers["keys"]["rich"])) as response:
        assert response.status_code == 422
        assert "public host" in response.json()["error"]
    assert servers["asked"] == []
