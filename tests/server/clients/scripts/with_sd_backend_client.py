"""sd-backend-client, the library of IntraPaint, which finds out by itself what kind of server it talks to."""

import io
import time

from cases import KEY, PROMPT, URL, WRONG_KEY, Shown, picture, run
from PIL import Image
from sd_backend_client import A1111Webservice, GenerationHandle, connect_to_backend
from sd_backend_client.api.webui.diffusion_request_body import DiffusionRequestBody

backend = connect_to_backend(URL, credentials_provider=lambda: ("painter", KEY))


def opened(name: str) -> Image.Image:
    image = Image.open(io.BytesIO(picture(name)))
    image.load()
    return image


def body(
    mask: str | None = "white.png", image: str | None = "photo.png", **options: object
) -> DiffusionRequestBody:
    given = {"prompt": PROMPT, "seed": 7, "steps": 4, "sampler_name": "DDIM", "inpainting_fill": 1, **options}
    pictures = {} if image is None else {"init_images": [opened(image)], "width": 144, "height": 112}
    if mask is not None:
        pictures["mask"] = opened(mask)
    return DiffusionRequestBody(**pictures, **given)


def finished(handle: GenerationHandle) -> Shown:
    result = handle.wait()
    files = []
    for image in result.images:
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append(file.getvalue())
    return files, {"seeds": result.seeds}


def paint(**options: object) -> Shown:
    return finished(backend.submit_inpaint(body(**options)))


def progress() -> Shown:
    """Poll the job's handle, as a program with a progress bar does."""
    handle, seen, states = backend.submit_inpaint(body(steps=40)), [], []
    while (now := handle.poll()).status.name in ("PENDING", "ACTIVE"):
        seen.append(now.progress)
        states.append(now.status.name)
        time.sleep(0.01)
    files, _ = finished(handle)
    return files, {"progress": seen, "states": states, "last": now.status.name}


def cancel() -> Shown:
    """Cancel a long job once a step of it is done."""
    handle = backend.submit_inpaint(body(steps=150))
    while (now := handle.poll()).status.name in ("PENDING", "ACTIVE") and not now.progress:
        time.sleep(0.01)
    accepted = handle.cancel()
    while handle.poll().status.name in ("PENDING", "ACTIVE"):
        time.sleep(0.01)
    return [], {"accepted": accepted, "last": handle.poll().status.name}


def lists() -> Shown:
    """Ask for every menu; the library checks the type of each field."""
    menus = ("checkpoints", "vaes", "loras", "hypernetworks", "samplers", "schedulers", "upscalers")
    found = {name: [option.name for option in getattr(backend, f"list_{name}")()] for name in menus}
    abilities = vars(backend.get_capabilities())
    return [], {**found, "capabilities": abilities, "kind": type(backend).__name__}


def wrong_key() -> Shown:
    A1111Webservice(URL, credentials_provider=lambda: ("painter", WRONG_KEY)).list_samplers()
    return [], {}


run(
    {
        "white": paint,
        "exact": lambda: paint(mask_blur=0),
        "drawn": lambda: paint(mask="drawn.png", mask_blur=0),
        "no_mask": lambda: finished(backend.submit_img2img(body(mask=None))),
        "three": lambda: paint(batch_size=3),
        "second": lambda: paint(seed=8),
        "generate": lambda: finished(backend.submit_txt2img(body(None, None, width=128, height=96))),
        "progress": progress,
        "cancel": cancel,
        "lists": lists,
        "empty_mask": lambda: paint(mask="black.png"),
        "no_script": lambda: paint(script_name="X/Y/Z plot"),
        "no_route": lambda: finished(backend.submit_upscale(opened("photo.png"), 288, 224)),
        "wrong_key": wrong_key,
    }
)
