"""The in-process client, and the messages and tickets that worker processes use too."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import (
    BusyError,
    CancelledError,
    ClosedError,
    DeviceError,
    InpaintError,
    ModelError,
    OutOfMemoryError,
    PaintError,
    RequestError,
)
from inpaint.model.load import Model
from inpaint.request import SETTINGS, InpaintResult
from inpaint.runtime.faults import Faults
from server.engines.in_process import InProcessClient
from server.engines.messages import (
    Link,
    error_from,
    error_message,
    pack,
    request_from,
    request_message,
    result_from,
    result_message,
    unpack,
)
from server.engines.patched import part_of
from server.engines.ticket import prepare
from server.engines.worker import WorkerSpec

T = TypeVar("T")
Make = Callable[..., InpaintRequest]
WAIT_S = 120


def run(coroutine: Awaitable[T]) -> T:
    async def main() -> T:
        async with asyncio.timeout(WAIT_S):
            return await coroutine

    return asyncio.run(main())


@asynccontextmanager
async def client_of(model: Model, faults: str = "", max_rows: int = 8) -> AsyncIterator[InProcessClient]:
    def load(spec: WorkerSpec, index: int, start: int) -> Engine:
        return Engine(model, max_rows=spec.max_rows, faults=Faults.parse(spec.faults))

    client = InProcessClient(WorkerSpec(max_rows=max_rows, faults=faults), load=load)
    await client.start()
    try:
        yield client
    finally:
        await client.close(0)


def test_it_paints_what_the_engine_paints(model: Model, engine: Engine, request_for: Make) -> None:
    """``--workers 0`` paints the same pictures."""

    async def main() -> None:
        async with client_of(model) as client:
            ticket = await client.submit(request_for(seed=8))
            assert ticket.seeds == [8]
            states = [event.state async for event in ticket.events()]
            assert states == ["queued", "encoding", "step", "step", "step", "done"]
            picture = (await ticket.result()).images[0]
            assert np.array_equal(picture, engine.paint(request_for(seed=8)).images[0])
            health = client.health()
            assert (health.ready, health.images, health.unet_calls, health.running) == (True, 1, 3, 0)

    run(main())


def test_it_loads_by_name_and_reports_a_missing_model(
    checkpoint: Callable[[int], Path], request_for: Make, tmp_path: Path
) -> None:
    """It is ready after the load, not before."""

    async def main() -> None:
        client = InProcessClient(WorkerSpec(model=str(checkpoint(9)), device="cpu"))
        assert not client.health().ready
        with pytest.raises(BusyError, match="being loaded"):
            await client.submit(request_for())
        await client.start()
        assert client.health().ready
        await client.close(0)
        with pytest.raises(BusyError, match="stopping"):
            await client.submit(request_for())
        with pytest.raises(ModelError):
            await InProcessClient(WorkerSpec(model=str(tmp_path / "none"), device="cpu")).start()

    run(main())


def test_fifty_listeners_cost_no_thread(model: Model, request_for: Make) -> None:
    """Those that hang up leave neither thread nor task behind."""

    async def main() -> None:
        async with client_of(model, max_rows=2) as client:
            tickets = [await client.submit(request_for(num_inference_steps=100)) for _ in range(50)]
            threads, tasks = threading.active_count(), len(asyncio.all_tasks())
            listeners = [asyncio.ensure_future(anext(ticket.events())) for ticket in tickets]
            listeners += [asyncio.ensure_future(ticket.ended()) for ticket in tickets]
            await asyncio.wait(listeners, return_when=asyncio.FIRST_COMPLETED)
            assert threading.active_count() <= threads
            assert client.health().waiting >= 47, "all but two rows and one that is encoded ahead"
            for ticket in tickets:
                ticket.cancel()
            await asyncio.gather(*listeners)
            assert len(asyncio.all_tasks()) == tasks
            assert (client.health().waiting, client.health().running) == (0, 0)

    run(main())


def test_a_cancelled_request_frees_its_rows_within_a_step(model: Model, request_for: Make) -> None:
    """A client that hangs up must not hold the GPU."""

    async def main() -> None:
        async with client_of(model) as client:
            ticket = await client.submit(request_for(num_inference_steps=150, strength=1.0))
            async for event in ticket.events():
                if event.state == "step" and not ticket.cancelled:
                    assert ticket.started
                    ticket.cancel()
                    calls = client.health().unet_calls
            assert client.health().unet_calls <= calls + 2  # the event of a step takes a moment
            with pytest.raises(CancelledError):
                await ticket.result()
            ticket.cancel()  # a second time is harmless

    run(main())


def test_a_request_cancelled_while_it_is_submitted_is_not_painted(model: Model, request_for: Make) -> None:
    """The thread that crops the picture goes on; its job is cancelled."""

    async def main() -> None:
        async with client_of(model) as client:
            engine = client._engine
            assert isinstance(engine, Engine)
            entered, go_on, jobs = threading.Event(), threading.Event(), []
            submit = engine.submit

            def slow(request: InpaintRequest, **terms: Any) -> Any:
                entered.set()
                assert go_on.wait(WAIT_S)
                jobs.append(submit(request, **terms))
                return jobs[0]

            engine.submit = slow  # type: ignore[method-assign]
            submitting = asyncio.create_task(
                client.submit(request_for(num_inference_steps=150, strength=1.0))
            )
            await asyncio.to_thread(entered.wait, WAIT_S)
            submitting.cancel()
            await asyncio.wait([submitting])
            go_on.set()
            await until(lambda: jobs and jobs[0].cancelled)

    run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_watchers_get_previews(model: Model, request_for: Make) -> None:
    """The page's preview is computed while a listener wants it."""

    async def main() -> None:
        async with client_of(model) as client:
            ticket = await client.submit(request_for(num_inference_steps=10))
            previews = [event.preview async for event in ticket.events(preview=True) if event.preview]
            assert previews
            assert previews[0].size == (16, 16)

    run(main())


def test_close_drains_and_fails_the_rest(model: Model, request_for: Make) -> None:
    """An unfinished v2 request is kept for the next start, unlike one that its caller cancelled."""

    async def main() -> None:
        async with client_of(model, max_rows=1) as client:
            ticket = await client.submit(request_for())
            await client.close(WAIT_S)
            assert (await ticket.result()).images
        async with client_of(model, max_rows=1) as client:
            ticket = await client.submit(request_for(num_inference_steps=150, strength=1.0))
            await client.close(0.01)
            with pytest.raises(ClosedError, match="send it again"):
                await ticket.result()

    run(main())


def test_a_failed_gpu_makes_it_not_ready(model: Model, request_for: Make) -> None:
    """Nothing restarts this process; at least no request is sent to it."""

    async def main() -> None:
        async with client_of(model, "assert@1") as client:
            ticket = await client.submit(request_for())
            with pytest.raises(DeviceError):
                await ticket.result()
            assert not client.health().ready
            assert "restarted" in client.health().reason

    run(main())


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_mode_cross_a_link(mode: str, grid_mask: Image.Image) -> None:
    """Bit for bit: outside the mask the caller's pixels stay."""
    values = np.random.default_rng(0).integers(0, 256, (128, 128, 4), dtype=np.uint8)
    grey16 = Image.fromarray(values[..., :2].copy().view(np.uint16)[..., 0])
    image = grey16 if mode == "I;16" else Image.fromarray(values).convert(mode)
    assert image.mode == mode
    request = InpaintRequest(
        image,
        grid_mask,
        "caf\u00e9 \U0001f600",
        negative_prompt=None,
        seed=999_999_999_999_999,
        guidance_interval=(0.1, 2 / 3),
    )
    ours, theirs = socket.socketpair()
    sender, receiver = Link(ours), Link(theirs)
    sender.send(request_message(4, request, 1, "a key", inf))
    sender.after_sent(sender.close)
    (message,) = receiver.messages()
    assert list(sender.messages()) == []
    got = request_from(message)
    assert (message.id, message.fields["watchers"]) == (4, 1)
    assert (message.fields["key"], message.fields["left_s"]) == ("a key", inf)
    assert [getattr(got, name) for name in SETTINGS] == [getattr(request, name) for name in SETTINGS]
    assert np.array_equal(np.asarray(got.image), np.asarray(image))
    assert got.image.mode == mode
    assert np.array_equal(got.mask, grid_mask)


ERRORS = [
    RequestError("mask", "is bad"),
    OutOfMemoryError("too large"),
    PaintError("NaN"),
    CancelledError("gone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_a_link(error: InpaintError) -> None:
    """The caller reads the same sentence, and the HTTP status is the same."""
    got = error_from(error_message("failed", 1, error))
    assert (type(got), str(got), getattr(got, "field", "")) == (
        type(error),
        str(error),
        getattr(error, "field", ""),
    )


@pytest.mark.parametrize("boxes", [(), ((0, 0, 8, 8), (8, 8, 16, 16))], ids=["one box", "two boxes"])
def test_results_cross_a_link(boxes: tuple[tuple[int, int, int, int], ...]) -> None:
    """A caller behind a worker process gets what one with an engine of its own gets."""
    image = Image.new("RGB", (16, 16), "teal")
    result = InpaintResult([image], [7], (0, 0, 16, 16), ("a warning",), {"encode_s": 0.5}, boxes)
    got = result_from(unpack(pack(result_message(1, result))))
    assert (got.seeds, got.box, got.warnings, got.timings, got.boxes) == (
        result.seeds,
        result.box,
        result.warnings,
        result.timings,
        boxes,
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_only_what_was_painted_crosses_a_link(mode: str) -> None:
    """Of a large picture a small part is sent, and the caller reads the same pictures."""
    original = Image.effect_noise((64, 48), 60).convert(mode)
    box, part = (8, 4, 24, 20), (4, 6)
    images = [original.copy() for _ in range(2)]
    for shade, image in enumerate(images):
        image.paste(Image.new(mode, part, "black" if shade else "white"), box[:2])
    message = unpack(pack(result_message(1, InpaintResult(images, [7, 8], box), original)))
    assert [image.size for image in message.images] == [(16, 16)] * 2
    got = result_from(message, original).images
    assert [image.tobytes() for image in got] == [image.tobytes() for image in images]
    assert [image.tobytes() for image in got[::-1]] == [image.tobytes() for image in images[::-1]]
    for inside in (box, (0, 0, 12, 12)):
        assert part_of(got, 1, inside).tobytes() == images[1].crop(inside).tobytes()
        assert part_of(images, 1, inside).tobytes() == images[1].crop(inside).tobytes()


def test_a_picture_in_another_mode_is_sent_whole() -> None:
    """Nothing is composed of two kinds of pixels."""
    original, image = Image.new("RGB", (64, 48), "red"), Image.new("RGBA", (64, 48), (0, 0, 255, 9))
    message = unpack(pack(result_message(1, InpaintResult([image], [7], (8, 4, 24, 20)), original)))
    assert result_from(message, original).images[0].tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("mode", "colours", "settings"),
    [
        ("RGBA", ((9, 200, 9, 255), (1, 2, 3, 0)), {"mask_channel": "alpha"}),
        ("LA", ((0, 0), (0, 255)), {"mask_channel": "alpha", "invert_mask": True}),
        ("RGB", ("white", "black"), {"invert_mask": True}),
    ],
    ids=str,
)
def test_how_a_mask_is_read_crosses_a_link(
    mode: str, colours: tuple[Any, Any], settings: dict[str, Any], engine: Engine, request_for: Make
) -> None:
    """A worker reads the mask that it is sent as its caller meant, and paints what it would paint itself."""
    mask = Image.new(mode, (128, 128), colours[0])
    mask.paste(colours[1], (40, 32, 104, 96))
    request = request_for(
        mask=mask.resize((130, 128), Image.Resampling.NEAREST), resize_mask=True, **settings
    )
    sent = request_from(unpack(pack(request_message(1, run(prepare(request)), 0, "", inf))))
    assert sent.mask.mode == ("LA" if "mask_channel" in settings else "L")
    assert np.array_equal(engine.paint(sent).images[0], engine.paint(request).images[0])


def test_preparing_a_request_changes_no_picture(engine: Engine, request_for: Make) -> None:
    """A phone's rotated palette picture with a transparent mask paints the same, prepared or not."""
    rotated = request_for().image.quantize(16)
    rotated.getexif()[0x0112] = 6
    clear = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (32, 32, 96, 96))
    request = request_for(image=rotated, mask=clear)
    prepared = run(prepare(request))
    assert (prepared.image.mode, prepared.mask.mode) == ("RGB", "L")
    assert np.array_equal(engine.paint(request).images[0], engine.paint(prepared).images[0])


@pytest.mark.parametrize(
    ("grey", "soft", "refused"),
    [(127, False, True), (128, False, False), (0, True, True), (7, True, True), (8, True, False)],
)
def test_a_mask_without_a_hole_is_refused(grey: int, soft: bool, refused: bool, request_for: Make) -> None:
    """Before it waits for an engine."""
    request = request_for(mask=Image.new("L", (128, 128), grey), soft=soft)
    if refused:
        with pytest.raises(RequestError, match="nothing to repaint"):
            run(prepare(request))
    else:
        assert run(prepare(request)).mask.getextrema() == (grey, grey)


def test_a_random_seed_is_a_bug_of_ours(model: Model, request_for: Make) -> None:
    """A second try would paint another picture."""

    async def main() -> None:
        async with client_of(model) as client:
            with pytest.raises(AssertionError, match="seed"):
                await client.submit(replace(request_for(), seed=-1))

    run(main())


@pytest.mark.parametrize("module", ["server.engines.worker", "server.engines.pool"])
def test_the_servers_process_imports_no_torch(module: str) -> None:
    """A CUDA context in the parent costs memory on every GPU, and seconds at the start."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
