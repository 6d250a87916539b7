"""sd-api-mcp's client of AUTOMATIC1111's API, with the request that its tool ``img2img`` makes."""

import asyncio
import base64

from cases import KEY, PROMPT, URL, WRONG_KEY, Shown, picture, run
from sd_api_mcp.client import SDWebUIClient

# The tool's own defaults, but for the seed and the steps.
IMG2IMG = {
    "negative_prompt": "",
    "denoising_strength": 0.75,
    "width": 512,
    "height": 512,
    "cfg_scale": 7.0,
    "sampler_name": "Euler a",
    "scheduler": "Automatic",
    "n_iter": 1,
    "restore_faces": False,
    "tiling": False,
    "distilled_cfg_scale": 3.5,
}
MASKED = {
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "mask_round": True,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
}


def client(key: str = KEY) -> SDWebUIClient:
    return SDWebUIClient(URL, timeout=120.0, auth=("painter", key))


def encoded(name: str) -> str:
    return base64.b64encode(picture(name)).decode()


def paint(mask: str | None = "white.png", image: str = "photo.png", **options: object) -> Shown:
    payload = {"prompt": PROMPT, "seed": 7, "steps": 4, **IMG2IMG, **(MASKED if mask else {}), **options}
    payload["init_images"] = [f"data:image/png;base64,{encoded(image)}"]
    if mask is not None:
        payload["mask"] = encoded(mask)
    images = asyncio.run(client().img2img(payload))
    return [base64.b64decode(image) for image in images], {}


def generate() -> Shown:
    payload = {"prompt": PROMPT, "seed": 7, "steps": 4, **IMG2IMG, "width": 128, "height": 96}
    images = asyncio.run(client().txt2img(payload))
    return [base64.b64decode(image) for image in images], {}


def lists() -> Shown:
    async def ask() -> dict[str, object]:
        api = client()
        await api.set_sd_model("another.safetensors")
        return {"sd_models": await api.get_sd_models(), "upscalers": await api.get_upscalers()}

    return [], asyncio.run(ask())


def controlnet() -> Shown:
    asyncio.run(client().get_controlnet_models())
    return [], {}


def wrong_key() -> Shown:
    asyncio.run(client(WRONG_KEY).get_sd_models())
    return [], {}


run(
    {
        "white": paint,
        "exact": lambda: paint(mask_blur_x=0, mask_blur_y=0),
        "drawn": lambda: paint("drawn.png", mask_blur_x=0, mask_blur_y=0),
        "inverted": lambda: paint("inverted.png", mask_blur_x=0, mask_blur_y=0, inpainting_mask_invert=1),
        "no_mask": lambda: paint(None, width=144, height=112),
        "three": lambda: paint(n_iter=3),
        "second": lambda: paint(seed=8),
        "generate": generate,
        "lists": lists,
        "bad_field": lambda: paint(denoising_strength=5),
        "not_a_picture": lambda: paint(image="text.png"),
        "no_route": controlnet,
        "wrong_key": wrong_key,
    }
)
