"""webuiapi, the client of AUTOMATIC1111's API on PyPI: nothing but its host, port and credentials is set."""

import io
import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import webuiapi
from cases import FAILING, KEY, POOR_KEY, PROMPT, URL, WRONG_KEY, Shown, picture, run
from PIL import Image


def client(key: str = KEY) -> webuiapi.WebUIApi:
    address = urlsplit(URL)
    found = webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="DDIM", steps=4)
    found.set_auth("painter", key)  # the password is the key, whatever the user's name
    return found


api = client()
# A1111's soft inpainting, with the values of its page.
SOFT = {"soft inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}


def opened(name: str) -> Image.Image:
    return Image.open(io.BytesIO(picture(name)))


def shown(result: webuiapi.WebUIApiResult) -> Shown:
    files = []
    for image in result.images:
        file = io.BytesIO()
        image.save(file, "PNG")
        files.append(file.getvalue())
    info = result.info
    facts = {
        "seeds": info["all_seeds"],
        "infotexts": info["infotexts"],
        "sampler": info["sampler_name"],
        "parameters": sorted(result.parameters),
        "text": [image.info.get("parameters") for image in result.images],
    }
    return files, facts


def paint(mask: str | None = "white.png", key: str = KEY, **options: object) -> Shown:
    given = {"prompt": PROMPT, "seed": 7, "inpainting_fill": 1, **options}
    images, mask_image = [opened("photo.png")], None if mask is None else opened(mask)
    return shown(client(key).img2img(images=images, mask_image=mask_image, **given))


def running(pool: ThreadPoolExecutor, steps: int) -> Future[Shown]:
    """Begin to paint and wait until a step of it is done."""
    job = pool.submit(paint, steps=steps)
    while not job.done() and not api.get_progress()["state"]["sampling_step"]:
        time.sleep(0.01)
    return job


def progress() -> Shown:
    """Ask until the picture is there, and ask for the progress of another key's requests, too."""
    seen, others, previews, other = [], [], 0, client(POOR_KEY)
    with ThreadPoolExecutor(1) as pool:
        job = running(pool, 40)
        while not job.done():
            now = api.get_progress()
            seen.append(now["progress"])
            previews += now["current_image"] is not None
            others.append(other.get_progress()["progress"])
            time.sleep(0.01)
    files, _ = job.result()
    return files, {"progress": seen, "previews": previews, "others": others, "idle": api.get_progress()}


def interrupt() -> Shown:
    """Stop a long request: it answers with what is there, and not with an error."""
    with ThreadPoolExecutor(1) as pool:
        job = running(pool, 150)
        answer = api.interrupt()
        files, facts = job.result()
    return files, {"answer": answer, **facts}


def lists() -> Shown:
    names = ("samplers", "schedulers", "sd_models", "loras", "upscalers", "latent_upscale_modes", "sd_vae")
    names += (
        "hypernetworks",
        "face_restorers",
        "realesrgan_models",
        "prompt_styles",
        "scripts",
        "embeddings",
    )
    found = {name: getattr(api, f"get_{name}")() for name in names}
    others = {"options": api.get_options(), "memory": api.get_memory(), "cmd_flags": api.get_cmd_flags()}
    return [], {**found, **others}


def quiet() -> Shown:
    """Call what does nothing here and must answer all the same."""
    answers = [api.set_options({"sd_model_checkpoint": "another.safetensors"}), api.skip()]
    return [], {"answers": [*answers, api.refresh_checkpoints()]}


def no_route() -> Shown:
    api.extra_single_image(opened("photo.png"))
    return [], {}


def png_info() -> Shown:
    """Read the settings of a painted picture, as Photoshop's plugin does after each."""
    painted = api.img2img(images=[opened("photo.png")], mask_image=opened("white.png"), prompt=PROMPT, seed=7)
    return [], {"info": api.png_info(painted.image).info}


run(
    {
        "white": paint,
        "exact": lambda: paint(mask_blur=0),
        "drawn": lambda: paint("drawn.png", mask_blur=0),
        "inverted": lambda: paint("inverted.png", mask_blur=0, inpainting_mask_invert=1),
        "no_mask": lambda: paint(None, width=144, height=112),
        "whole": lambda: paint(inpaint_full_res=False, width=144, height=112),
        "three": lambda: paint(batch_size=3),
        "second": lambda: paint(seed=8),
        "soft": lambda: paint(alwayson_scripts=SOFT),
        "six": lambda: paint(batch_size=2, n_iter=3, mask_blur=0),
        "generate": lambda: shown(api.txt2img(prompt=PROMPT, seed=7, width=128, height=96)),
        "progress": progress,
        "interrupt": interrupt,
        "lists": lists,
        "quiet": quiet,
        "png_info": png_info,
        "bad_field": lambda: paint(denoising_strength=5),
        "bad_steps": lambda: paint(steps=0),
        "empty_mask": lambda: paint("black.png"),
        "no_script": lambda: paint(script_name="X/Y/Z plot", script_args=[]),
        "no_route": no_route,
        "wrong_key": lambda: paint(key=WRONG_KEY),
        "no_credits": lambda: paint(key=POOR_KEY),
        "failed": lambda: paint(prompt=FAILING),
    }
)
