"""LiteLLM as a library: its OpenAI provider and its Stability provider, with our address as ``api_base``."""

import base64
import io

import litellm
from cases import KEY, PROMPT, URL, WRONG_KEY, Shown, picture, run

QUICK = {"num_inference_steps": 4, "scheduler": "DDIM", "seed": 7}


def files_of(answer: litellm.ImageResponse) -> list[bytes]:
    return [base64.b64decode(image.b64_json) for image in answer.data]


def edit(image: str = "photo.png", mask: str | None = "hole.png", **options: object) -> Shown:
    """Edit a picture; unknown fields go through ``extra_body``, as with OpenAI's SDK."""
    if mask is not None:
        options["mask"] = io.BytesIO(picture(mask))
    extra = QUICK | options.pop("extra", {})
    fixed = {"model": "openai/sdxl-inpainting", "api_base": f"{URL}/v1", "api_key": KEY}
    answer = litellm.image_edit(
        **{"image": io.BytesIO(picture(image)), "prompt": PROMPT, **fixed, **options}, extra_body=extra
    )
    return files_of(answer), {}


def generate() -> Shown:
    answer = litellm.image_generation(
        model="openai/sdxl-inpainting",
        prompt=PROMPT,
        size="128x96",
        api_base=f"{URL}/v1",
        api_key=KEY,
        extra_body=QUICK,
    )
    return files_of(answer), {}


def stability(model: str, mask: str | None = "white.png", key: str = KEY, **options: object) -> Shown:
    if mask is not None:
        options["mask"] = io.BytesIO(picture(mask))
    image = io.BytesIO(picture(str(options.pop("image", "photo.png"))))
    fixed = {"model": f"stability/{model}", "api_base": URL, "api_key": key}
    return files_of(litellm.image_edit(image=image, **{"prompt": PROMPT, **fixed, **options})), {}


run(
    {
        "hole": edit,
        "exact": lambda: edit(extra={"grow": 0, "feather": 0}),
        "white": lambda: edit(mask="white.png"),
        "own_alpha": lambda: edit("cutout.png", None),
        "no_mask": lambda: edit(mask=None),
        "three": lambda: edit(n=3),
        "second": lambda: edit(extra={"seed": 8}),
        "generate": generate,
        "bad_field": lambda: edit(extra={"strength": 5}),
        "bad_size": lambda: edit(mask="small.png"),
        "not_a_picture": lambda: edit("text.png"),
        "too_large": lambda: edit("large.png"),
        "no_route": lambda: edit(api_base=f"{URL}/v1/nothing"),
        "wrong_key": lambda: edit(api_key=WRONG_KEY),
        "stability_inpaint": lambda: stability("inpaint", seed=7),
        "stability_again": lambda: stability("inpaint", seed=7),
        "stability_own_alpha": lambda: stability("inpaint", None, image="cutout.png"),
        "stability_erase": lambda: stability("erase", prompt=""),
        "stability_not_a_picture": lambda: stability("inpaint", image="text.png"),
        "stability_wrong_key": lambda: stability("inpaint", key=WRONG_KEY),
    }
)
