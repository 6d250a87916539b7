"""``img2img`` and ``txt2img`` as A1111's clients send them: what is painted, and how."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from inpaint.canvas.mask import strength_of
from server.dialects.a1111.request import img2img as read
from tests.support.served import SIZE, Served, b64, colour_of, file_of, photo, white_box
from tests.support.webui import API, engine_of, files_of, img2img, info_of, pictures_of, post, request_of

pytest_plugins = ["tests.support.served_fixtures"]

WIDTH, HEIGHT = SIZE


def white_of(request: Any) -> Image.Image:
    """The pixels that a request repaints, 255 each."""
    return strength_of(request).point([0] * 128 + [255] * 128)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def erased(alpha: int = 0) -> Image.Image:
    """The picture with its right half transparent."""
    image = photo().convert("RGBA")
    image.paste((255, 0, 0, alpha), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return image


# Pictures and masks.


def test_only_the_mask_is_painted(served: Served) -> None:
    """The pixels outside it are the client's own, bit for bit, and the size is the picture's."""
    answer = post(served, width=512, height=640, inpaint_full_res=True, inpaint_full_res_padding="32")
    (painted,) = pictures_of(answer)
    assert same(painted, Image.composite(Image.new("RGB", SIZE, colour_of(7)), photo(), white_box()))
    request = engine_of(served).requests[-1]
    assert (request.area, request.lengths, request.padding, request.grow) == ("auto", "picture", 32, 0)
    assert (info_of(answer)["width"], info_of(answer)["height"]) == SIZE


@pytest.mark.parametrize(("mode", "corner"), [(0, "gold"), (1, "teal"), ("2", "gold"), (3.0, "gold")])
def test_the_whole_picture_is_resized_first(served: Served, mode: object, corner: str) -> None:
    """A client that asks for the whole picture gets its size, by stretching, cropping or smearing edges."""
    answer = post(served, inpaint_full_res="False", width=64, height=128, resize_mode=mode)
    (painted,) = pictures_of(answer)
    assert painted.size == (64, 128)
    request = engine_of(served).requests[-1]
    assert request.area == "whole"
    assert request.image.getpixel((0, 0)) == photo().getpixel((0, 0) if corner == "gold" else (WIDTH - 1, 0))
    kept = ImageChops.invert(white_of(request))
    assert kept.getbbox() is not None
    black = Image.new("RGB", painted.size)
    assert same(Image.composite(painted, black, kept), Image.composite(request.image, black, kept))


def test_without_a_mask_all_of_it_is_repainted(served: Served) -> None:
    """Open WebUI, LibreChat and AI-Render send none; the picture must still be recognised."""
    answer = post(served, mask=None, width=64, height=64, inpainting_fill=0)
    request = engine_of(served).requests[-1]
    assert pictures_of(answer)[0].size == (64, 64)
    assert white_of(request).getextrema() == (255, 255)
    assert (request.fill, request.area, request.strength) == ("original", "whole", 0.75)


def test_without_a_mask_the_erased_part_is_repainted(served: Served) -> None:
    """A part that was erased is what its user wants painted; what is kept is laid over white."""
    request = request_of(served, mask=None, init_images=[b64(file_of(erased()))], width=WIDTH, height=HEIGHT)
    assert same(white_of(request), white_box())
    assert request.image.mode == "RGB"
    assert request.image.getpixel((WIDTH - 1, 0)) == (255, 255, 255)
    assert request.fill == "blur"
    faint = request_of(served, mask=None, init_images=[b64(file_of(erased(200)))], width=64, height=64)
    assert white_of(faint).getextrema() == (255, 255)


def test_a_transparent_picture_with_a_mask_is_laid_over_white(served: Served) -> None:
    """As upstream: the answer has no transparency."""
    (painted,) = pictures_of(post(served, init_images=[b64(file_of(erased()))], inpainting_mask_invert=1))
    assert painted.mode == "RGB"
    assert painted.getpixel((WIDTH - 1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("invert", [0, 1, "1", True, None])
def test_a_mask_with_transparency_is_read_by_it(served: Served, invert: object) -> None:
    """sd-api-mcp and Photoshop send RGBA: what is opaque is repainted, whatever its colour."""
    mask = Image.merge("RGBA", (*Image.new("RGB", SIZE, "black").split(), white_box()))
    white = white_of(request_of(served, mask=b64(file_of(mask)), inpainting_mask_invert=invert))
    assert same(white, ImageChops.invert(white_box()) if invert else white_box())


def test_a_mask_is_inverted_fitted_and_taken_from_a_list(served: Served) -> None:
    """gimp-stable-boy sends an inverted one; stable-diffusion.cpp's users a list of one."""
    black = b64(file_of(ImageChops.invert(white_box())))
    assert same(white_of(request_of(served, mask=[black], inpainting_mask_invert=1)), white_box())
    large = b64(file_of(white_box((2 * WIDTH, 2 * HEIGHT))))
    request = request_of(served, mask=f"data:image/png;base64,{large}")
    assert same(white_of(request), white_box())


def test_lengths_are_pixels_of_the_picture(served: Served) -> None:
    """A blur has the width that it has in A1111, which cuts its Gaussian off at 2.5 sigmas."""
    blurs: list[tuple[dict[str, object], int]] = [
        ({"mask_blur": 4}, 10),
        ({"mask_blur": "4.0"}, 10),
        ({"mask_blur": None, "mask_blur_x": 1, "mask_blur_y": 2}, 5),
        ({"mask_blur": None}, 10),
        ({"mask_blur": 0, "mask_blur_x": 9}, 0),
    ]
    for fields, feather in blurs:
        request = request_of(served, **fields)
        assert (request.feather, request.lengths) == (feather, "picture")


@pytest.mark.parametrize(
    ("given", "fill"), [(None, "blur"), (1, "original"), ("2", "noise"), (3.0, "neutral")]
)
def test_fills_have_their_numbers(served: Served, given: object, fill: str) -> None:
    """The default is the API's, which is not the page's."""
    assert request_of(served, inpainting_fill=given).fill == fill


def test_soft_inpainting_keeps_the_blur_in_the_mask(served: Served) -> None:
    """IntraPaint switches it on by its script, in any case; its six numbers have no meaning here."""
    script = {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}
    request = request_of(served, mask_blur=4, alwayson_scripts=script)
    assert (request.soft, request.feather) == (True, 0)
    levels = np.asarray(request.mask)[HEIGHT // 2]
    assert len(set(levels[WIDTH // 2 - 8 : WIDTH // 2 + 8])) > 8
    for off in ({"args": [False, 1, 0.5]}, {"args": []}, {"args": {"Soft inpainting": False}}, {}):
        assert not request_of(served, alwayson_scripts={"soft inpainting": off}).soft
    assert request_of(served, alwayson_scripts={"soft inpainting": {"args": {"Soft inpainting": True}}}).soft


# Settings.


@pytest.mark.parametrize(
    ("steps", "denoising", "strength", "taken"),
    [
        (20, None, 0.75, 15),
        ("20", "0.5", 0.5, 10),
        (49.0, 0, pytest.approx(1 / 49), 1),
        (20, 0.01, pytest.approx(1 / 20), 1),
        (20, 1, 0.99, 19),
        (1, 1, 1.0, 1),
        (1, 0.2, 1.0, 1),
    ],
)
def test_at_least_one_step_is_taken(
    served: Served, steps: object, denoising: object, strength: float, taken: int
) -> None:
    """A client's slider begins at 0, where A1111 takes one step; at 1 our model paints noise."""
    request = request_of(served, steps=steps, denoising_strength=denoising)
    assert request.strength == strength
    assert request.steps_to_run == taken


def test_a_model_for_whole_pictures_paints_at_strength_1() -> None:
    """An ordinary SDXL checkpoint paints no noise there."""
    fields = img2img(denoising_strength=1)
    assert [read(fields, channels).order.settings["strength"] for channels in (4, 9, None)] == [
        1.0,
        0.99,
        0.99,
    ]


KARRAS = {"Schedule type": "Karras"}
SAMPLERS: list[tuple[dict[str, object], str, str, dict[str, str]]] = [
    ({}, "Euler", "Euler", {}),
    ({"sampler_index": "Euler a", "sampler_name": None}, "Euler a", "Euler a", {}),
    ({"sampler_name": "DPM++ 2M Karras"}, "DPM Multi Karras", "DPM++ 2M", KARRAS),
    ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "DPM Multi Karras", "DPM++ 2M", KARRAS),
    ({"sampler_name": "k_dpm_2", "scheduler": "automatic"}, "DPM2 Karras", "DPM2", KARRAS),
    ({"sampler_name": "PLMS"}, "PNDM", "PLMS", {}),
    ({"sampler_name": "Restart"}, "Euler", "Euler", {"Instead of": "Restart (automatic)"}),
    (
        {"sampler_name": "DPM++ SDE Karras"},
        "DPM Single Karras",
        "DPM++ 2S",
        KARRAS | {"Instead of": "DPM++ SDE Karras (automatic)"},
    ),
    (
        {"sampler_name": "my own", "scheduler": "beta"},
        "DPM Multi",
        "DPM++ 2M",
        {"Schedule type": "Uniform", "Instead of": "my own (beta)"},
    ),
]


@pytest.mark.parametrize(("fields", "scheduler", "name", "extra"), SAMPLERS)
def test_a_sampler_is_the_nearest_and_the_answer_says_which(
    served: Served, fields: dict[str, object], scheduler: str, name: str, extra: dict[str, str]
) -> None:
    """AI-Render sends 30 fixed names; as in A1111, none is an error."""
    info = info_of(post(served, **fields))
    assert engine_of(served).requests[-1].scheduler == scheduler
    assert info["sampler_name"] == name
    assert info["extra_generation_params"] == extra


def test_seeds_count_up_and_paint_the_same_again(served: Served) -> None:
    """A user repeats the third of six pictures by the seed that the answer names."""
    answer = post(served, n_iter=2, batch_size="3", seed="11")
    info = info_of(answer)
    assert info["all_seeds"] == list(range(11, 17))
    assert (info["seed"], info["batch_size"], len(answer["images"])) == (11, 3, 6)
    assert files_of(post(served, seed=13))[0] == files_of(answer)[2]
    drawn = info_of(post(served, seed="-1"))["seed"]
    assert drawn >= 0
    assert drawn != info_of(post(served, seed=None))["seed"]


def test_text_nulls_and_unknown_keys_are_taken(served: Served) -> None:
    """GIMP's and Blender's clients send all numbers as text or floats, browsers send null for most."""
    fields = img2img(steps="20.0", cfg_scale="4.5", seed=7.0, negative_prompt="") | {"prompt": None}
    nulls = dict.fromkeys(
        ("n_iter", "batch_size", "mask_blur", "sampler_name", "scheduler", "script_name", "alwayson_scripts")
    )
    unknown = {"distilled_cfg_scale": 3.5, "override_settings": {"sd_vae": "x"}, "eta": None}
    answer = served.client.post(f"{API}/img2img", json=fields | nulls | unknown)
    assert answer.status_code == 200, answer.text
    request = engine_of(served).requests[-1]
    assert (request.num_inference_steps, request.guidance_scale, request.seed) == (20, 4.5, 7)
    assert (request.prompt, request.negative_prompt) == ("", None)


def test_the_defaults_are_those_of_the_api(served: Served) -> None:
    """A script that sends a picture alone gets what A1111 would do with it."""
    answer = served.client.post(f"{API}/img2img", json={"init_images": [img2img()["init_images"][0]]})  # type: ignore[index]
    assert answer.status_code == 200
    request = engine_of(served).requests[-1]
    assert (request.num_inference_steps, request.guidance_scale, request.samples) == (50, 7.0, 1)
    assert request.image.size == (512, 512)


def test_a_prompt_alone_paints_a_grey_picture(served: Served) -> None:
    """SillyTavern, LibreChat and Open WebUI call nothing else."""
    answer = post(served, "txt2img", prompt="a fox", width=100, height="64", steps=4, seed=5)
    request = engine_of(served).requests[-1]
    assert pictures_of(answer)[0].size == (104, 64) == request.image.size
    assert request.image.getextrema() == ((127, 127),) * 3
    assert (request.fill, request.strength, request.area, request.seed) == ("noise", 0.99, "whole", 5)
    assert white_of(request).getextrema() == (255, 255)
    assert served.client.post(f"{API}/txt2img", json={}).status_code == 200
    assert engine_of(served).requests[-1].image.size == (512, 512)
