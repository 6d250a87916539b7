"""The server to beat: FastAPI, one lock, and diffusers' own SDXL inpainting pipeline behind it.

``python -m bench.lock_baseline`` serves ``POST /v1/sdxl-inpaint`` with the fields of the hosted API as JSON,
pictures as base64, and answers with a PNG. It is what an afternoon's work gives, done well: pictures are
read and written outside the lock, the lock is fair, and nothing is painted for a client that has hung up. Of
``inpaint`` it uses only the table of schedulers; ``bench.serving`` sends both servers the same requests.
"""

import argparse
import asyncio
import base64
import io
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image
from pydantic import BaseModel

from inpaint.demo import demo_checkpoint
from inpaint.errors import InpaintError
from inpaint.schedulers import make_scheduler
from inpaint.weights import resolve

HUNG_UP = 499  # nginx's number for it; no client is left to read it


class Body(BaseModel):
    """A request's fields; those that the stock pipeline does not have are ignored."""

    image: str
    mask: str
    prompt: str
    negative_prompt: str | None = None
    scheduler: str = "DPM2 Karras"
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    seed: int = 0
    strength: float = 0.9


Paint = Callable[[Body, Image.Image, Image.Image], Image.Image]


def create_app(paint: Paint) -> FastAPI:
    """Make the server around ``paint``, which is called by one thread at a time."""
    app = FastAPI()
    lock = asyncio.Lock()
    # Always the same thread: several would have a pool of torch threads each, and on a CPU slow each other
    # down two and a half times. Servers with a lock rarely do this, so it favours the baseline.
    painter = ThreadPoolExecutor(1)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/sdxl-inpaint")
    async def inpaint(body: Body, request: Request) -> Response:
        pictures = await asyncio.to_thread(opened, body)
        async with lock:  # asyncio's lock is fair: first in, first out
            if await request.is_disconnected():
                return Response(status_code=HUNG_UP)
            loop = asyncio.get_running_loop()
            painted = await loop.run_in_executor(painter, paint, body, *pictures)
        return Response(await asyncio.to_thread(png, painted), media_type="image/png")

    return app


def opened(body: Body) -> tuple[Image.Image, Image.Image]:
    """Decode the picture and its mask."""
    image, mask = (Image.open(io.BytesIO(base64.b64decode(text))) for text in (body.image, body.mask))
    return image.convert("RGB"), mask.convert("L")


def png(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def folder_of(model: str) -> Path:
    """Return the diffusers folder of a model's name or path.

    Raises:
        ModelError: there is no such model.
        SystemExit: it is a single file, which the stock pipeline loads in another way.
    """
    checkpoint = demo_checkpoint() if model == "demo" else resolve(model)
    if checkpoint.kind == "file":
        raise SystemExit(f"{model} is a single file; this bench needs a diffusers folder")
    return checkpoint.path


def stock(folder: Path, device: str, dtype: str) -> Paint:
    """Load diffusers' pipeline as its own documentation does.

    Args:
        folder: of the checkpoint.
        device: as ``Engine.load`` takes it.
        dtype: as ``Engine.load`` takes it.
    """
    import torch
    from diffusers import StableDiffusionXLInpaintPipeline

    from inpaint.model.load import pick_device, pick_dtype

    place = pick_device(device)

    def load() -> Any:
        return StableDiffusionXLInpaintPipeline.from_pretrained(
            folder,
            torch_dtype=pick_dtype(dtype, place),
            variant="fp16" if any((folder / "unet").glob("*.fp16.safetensors")) else None,
            add_watermarker=False,
            local_files_only=True,
        ).to(place)

    with ThreadPoolExecutor(1) as thread:  # ends, see create_app
        pipe = thread.submit(load).result()
    pipe.set_progress_bar_config(disable=True)
    schedule = dict(pipe.scheduler.config)

    def paint(body: Body, image: Image.Image, mask: Image.Image) -> Image.Image:
        pipe.scheduler = make_scheduler(body.scheduler, schedule)
        painted: Image.Image = pipe(
            prompt=body.prompt,
            negative_prompt=body.negative_prompt,
            image=image,
            mask_image=mask,
            width=image.width,
            height=image.height,
            strength=body.strength,
            num_inference_steps=body.num_inference_steps,
            guidance_scale=body.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(body.seed),
        ).images[0]
        return painted

    return paint


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="a model's name or diffusers folder (default demo)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float16, bfloat16 or float32 (default auto)")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    chosen = parser.parse_args(arguments)
    try:
        app = create_app(stock(folder_of(chosen.model), chosen.device, chosen.dtype))
    except InpaintError as error:
        sys.exit(str(error))
    with socket.create_server(("127.0.0.1", chosen.port), backlog=2048) as listener:
        # asyncio sets it only on sockets that it makes; our server sets it, too: server/uvicorn_server.py.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
