"""The ComfyUI node without ComfyUI: tensors in and out, against whole servers in this process."""

import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from inpaint.errors import PaintError
from inpaint.integrations.install import install_node
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from tests.support.served import FakeEngine, PictureHost, Serve, Served, colour_of, eventually, server_for

pytest_plugins = ["tests.support.served_fixtures"]

HEIGHT, WIDTH = 32, 48
SETTINGS: dict[str, Any] = {
    "prompt": "a red circle",
    "negative_prompt": "",
    "seed": 7,
    "steps": 20,
    "guidance": 7.5,
    "strength": 0.9,
    "sampler": "ddim",
}
Background = Callable[..., "Future[Any]"]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The node as ComfyUI loads it: one file in custom_nodes, by its path."""
    folder = tmp_path_factory.mktemp("ComfyUI") / "custom_nodes"
    folder.mkdir()
    path = install_node(folder)
    spec = importlib.util.spec_from_file_location("custom_nodes_sdxl_inpaint", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def node(module: ModuleType) -> Any:
    """The node, by the name under which workflows know it."""
    return module.NODE_CLASS_MAPPINGS["SDXLInpaint"]()


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the node imports of ComfyUI, with the names and signatures that it has there."""
    utils, management = ModuleType("comfy.utils"), ModuleType("comfy.model_management")
    utils.seen, management.interrupted = [], False  # type: ignore[attr-defined]

    class ProgressBar:
        def __init__(self, total: int, node_id: object = None) -> None:
            self.total = total

        def update_absolute(self, value: int, total: int | None = None, preview: object = None) -> None:
            utils.seen.append((value, total))

    class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
        pass

    def throw() -> None:
        if management.interrupted:
            management.interrupted = False
            raise InterruptProcessingException

    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = throw  # type: ignore[attr-defined]
    management.InterruptProcessingException = InterruptProcessingException  # type: ignore[attr-defined]
    package = ModuleType("comfy")
    package.utils, package.model_management = utils, management  # type: ignore[attr-defined]
    for name, each in (("comfy", package), ("comfy.utils", utils), ("comfy.model_management", management)):
        monkeypatch.setitem(sys.modules, name, each)
    return package


def images(count: int = 1, channels: int = 3) -> torch.Tensor:
    """Floats that are no multiples of 1/255, as other nodes make them."""
    return torch.rand(count, HEIGHT, WIDTH, channels, generator=torch.Generator().manual_seed(3))


def right_half(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """1 is repainted."""
    mask = torch.zeros(1, height, width)
    mask[:, :, width // 2 :] = 1
    return mask


def painted_colour(seed: int) -> torch.Tensor:
    return torch.tensor(colour_of(seed)) / 255


def test_the_mask_is_1_where_it_repaints(node: Any, served: Served) -> None:
    """And where it is 0, every float stays the caller's, not rounded to a byte."""
    image = images()
    kept = image.clone()
    (result,) = node.paint(image, right_half(), url=served.url, **SETTINGS)
    assert result.shape == image.shape
    assert result.dtype == torch.float32
    assert torch.equal(result[:, :, : WIDTH // 2], image[:, :, : WIDTH // 2])
    assert torch.allclose(result[:, :, WIDTH // 2 :], painted_colour(7))
    assert torch.equal(image, kept), "ComfyUI keeps a node's inputs for other nodes"


def test_a_batch_is_painted_with_seeds_of_its_own(node: Any, served: Served) -> None:
    """More images than are under way together; all samples of an image come together."""
    (result,) = node.paint(images(6), right_half(), url=served.url, **SETTINGS, samples=2)
    assert result.shape == (12, HEIGHT, WIDTH, 3)
    for number, picture in enumerate(result):
        assert torch.allclose(picture[:, WIDTH // 2 :], painted_colour(7 + number))
        assert torch.equal(picture[:, : WIDTH // 2], images(6)[number // 2, :, : WIDTH // 2])


@pytest.mark.parametrize(("pictures", "masks"), [(3, 1), (1, 3), (2, 2)])
def test_one_of_either_serves_all_of_the_other(node: Any, served: Served, pictures: int, masks: int) -> None:
    """As in ComfyUI's own nodes."""
    (result,) = node.paint(images(pictures), right_half().expand(masks, -1, -1), url=served.url, **SETTINGS)
    assert len(result) == max(pictures, masks)


def test_numbers_that_do_not_fit_are_an_error(node: Any, served: Served) -> None:
    """Two masks for three images: which one is without a mask?"""
    with pytest.raises(ValueError, match="2 masks do not fit 3 images"):
        node.paint(images(3), right_half().expand(2, -1, -1), url=served.url, **SETTINGS)


def test_a_mask_of_another_size_or_without_a_batch_fits(node: Any, served: Served) -> None:
    """Masks come from other nodes in other sizes, also as (H, W)."""
    for mask in (right_half(64, 96), right_half()[0]):
        (result,) = node.paint(images(), mask, url=served.url, **SETTINGS)
        assert torch.equal(result[:, :, : WIDTH // 2 - 1], images()[:, :, : WIDTH // 2 - 1])
        assert torch.allclose(result[:, :, WIDTH // 2 + 1 :], painted_colour(7))


def test_a_fourth_channel_stays(node: Any, served: Served) -> None:
    """Some nodes give RGBA."""
    (result,) = node.paint(images(channels=4), right_half(), url=served.url, **SETTINGS)
    assert torch.equal(result[..., 3], images(channels=4)[..., 3])
    assert torch.allclose(result[:, :, WIDTH // 2 :, :3], painted_colour(7))


def test_the_settings_arrive(node: Any, served: Served) -> None:
    """Under the names of the API, and without what was left empty."""
    node.paint(images(), right_half(), url=served.url, **SETTINGS, grow=3, feather=5, soft=True)
    assert isinstance(served.engine, FakeEngine)
    request = served.engine.requests[-1]
    assert (request.prompt, request.negative_prompt, request.seed) == ("a red circle", None, 7)
    assert (request.num_inference_steps, request.strength, request.scheduler) == (20, 0.9, "DDIM")
    assert (request.grow, request.feather, request.soft) == (3, 5, True)


def test_every_input_of_the_node_is_one_of_the_request(module: ModuleType, node: Any, served: Served) -> None:
    """ComfyUI calls the node with all of its inputs, each with its default."""
    inputs = node.INPUT_TYPES()
    given = {
        name: options[1]["default"]
        for name, options in (inputs["required"] | inputs["optional"]).items()
        if len(options) > 1
    }
    (result,) = node.paint(images(), right_half(), **{**given, "url": served.url})
    assert result.shape == images().shape
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)


def test_progress_is_that_of_all_pictures(node: Any, served: Served, comfy: Any) -> None:
    """ComfyUI shows one bar for the node."""
    node.paint(images(2), right_half(), url=served.url, **SETTINGS)
    seen = comfy.utils.seen
    assert seen[-1] == (200, 200)
    assert [value for value, _ in seen] == sorted(value for value, _ in seen)


def test_cancel_in_comfyui_cancels_at_the_server(
    node: Any, serve: Serve, comfy: Any, background: Background
) -> None:
    """All requests under way, also those that wait, and ComfyUI gets its own exception."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    call = background(node.paint, images(3), right_half(), url=served.url, **SETTINGS)
    tickets = [engine.next() for _ in range(3)]
    comfy.model_management.interrupted = True
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call.result()
    eventually(lambda: all(ticket.finished for ticket in tickets))


def test_errors_are_the_servers_sentence(node: Any, serve: Serve) -> None:
    """A wrong field, a mask without white, a failure, a wrong address."""
    engine = FakeEngine()
    served = serve(engine)
    with pytest.raises(RuntimeError, match="strength: "):
        node.paint(images(), right_half(), url=served.url, **{**SETTINGS, "strength": 0.0})
    with pytest.raises(RuntimeError, match="mask: "):
        node.paint(images(), torch.zeros(1, 64, 64), url=served.url, **SETTINGS)
    engine.failures.append(PaintError("the picture came out black"))
    with pytest.raises(RuntimeError, match="came out black"):
        node.paint(images(), right_half(), url=served.url, **SETTINGS)
    with pytest.raises(RuntimeError, match="start the server with `inpaint serve`"):
        node.paint(images(), right_half(), url="http://127.0.0.1:9", **SETTINGS)
    with pytest.raises(RuntimeError, match="url: "):
        node.paint(images(), right_half(), url="file:///etc/passwd", **SETTINGS)


def test_the_key_may_stay_out_of_the_workflow(
    node: Any, serve: Serve, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workflows are shared, also inside pictures; the variable is not."""
    served = serve()
    key = served.key()
    with pytest.raises(RuntimeError, match="key"):
        node.paint(images(), right_half(), url=served.url, **SETTINGS)
    assert len(node.paint(images(), right_half(), url=served.url, key=key, **SETTINGS)[0]) == 1
    monkeypatch.setenv(module.KEY_VARIABLE, key)
    assert len(node.paint(images(), right_half(), url=served.url, **SETTINGS)[0]) == 1


def test_a_real_engine_keeps_the_pixels_outside(
    node: Any,
    checkpoint: Callable[[int], Path],
    picture_host: PictureHost,
    tmp_path: Path,
    photo: Image.Image,
) -> None:
    """With the feather that a real engine blends, and a picture as LoadImage gives it."""
    engine = InProcessClient(WorkerSpec(model=str(checkpoint(9)), device="cpu"))
    image = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).reshape(1, 128, 128, 3) / 255
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:80, 40:80] = 1
    with server_for(tmp_path / "data", picture_host, engine) as served:
        eventually(lambda: served.client.get("/readyz").status_code == 200)
        settings = {**SETTINGS, "strength": 0.2, "grow": 0, "feather": 0}
        (result,) = node.paint(image, mask, url=served.url, **settings)
    changed = (result != image).any(dim=-1)
    assert changed[mask == 1].float().mean() > 0.5
    assert not changed[mask == 0].any()
    assert torch.equal((result * 255).round(), result * 255), "bytes stay bytes"
