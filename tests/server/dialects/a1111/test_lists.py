"""The lists and settings that A1111's clients read when they start, in the types that they check."""

from typing import Any

import pytest

from tests.support.served import Serve, Served
from tests.support.webui import API, detail

pytest_plugins = ["tests.support.served_fixtures"]

TITLE = "demo-sdxl.safetensors"
NONE = (
    "sd-vae", "sd-modules", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles",
    "extensions",
)  # fmt: skip
SHAPES: dict[str, Any] = {
    "options": {
        "sd_model_checkpoint": TITLE,
        "samples_format": "png",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "sd_checkpoint_hash": "",
    },
    "sd-models": [
        {
            "title": TITLE,
            "model_name": "demo-sdxl",
            "hash": None,
            "sha256": None,
            "filename": TITLE,
            "config": None,
        }
    ],
    "schedulers": [
        {"name": name, "label": label, "aliases": [], "default_rho": rho, "need_inner_model": False}
        for name, label, rho in (("automatic", "Automatic", -1.0), ("karras", "Karras", 7.0))
    ],
    "loras": [],
    "upscalers": [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
        for name in ("None", "Lanczos")
    ],
    "latent-upscale-modes": [{"name": "Latent"}],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": ["soft inpainting"]},
    "cmd-flags": {},
    **{name: [] for name in NONE},
}
NOTHING = {
    **dict.fromkeys(
        ("options", "options/", "refresh-checkpoints", "refresh-vae", "refresh-loras", "skip"), "null"
    ),
    **dict.fromkeys(("interrupt", "unload-checkpoint", "reload-checkpoint"), "{}"),
}


@pytest.mark.parametrize("path", SHAPES)
def test_a_list_has_the_form_that_clients_expect(served: Served, path: str) -> None:
    """A client's menus are filled, and its checks of types pass."""
    answer = served.client.get(f"{API}/{path}?")
    assert answer.status_code == 200
    assert answer.json() == SHAPES[path]


def test_samplers_have_the_names_of_menus(served: Served) -> None:
    """A client finds the sampler that its user chose years ago."""
    found = {row["name"]: row for row in served.client.get(f"{API}/samplers").json()}
    expected = "Euler a,Euler,Heun,LMS,DPM2,DPM2 a,DPM++ 2M,DPM++ 2S a,DPM++ 2M SDE,DDIM,PLMS,UniPC,DDPM"
    assert found.keys() == set(expected.split(","))
    assert found["DPM++ 2M"]["aliases"] == ["DPM Multi", "DPM Multi Karras", "DPM++ 2M Karras"]
    assert all(row["options"] == {} for row in found.values())


def test_the_script_has_a_switch_and_six_sliders(served: Served) -> None:
    """sd-backend-client builds a form of them, and sends them by their places."""
    (script,) = served.client.get(f"{API}/script-info").json()
    assert (script["name"], script["is_alwayson"], script["is_img2img"]) == ("soft inpainting", True, True)
    switch, *sliders = script["args"]
    assert switch["value"] is False
    assert [slider["value"] for slider in sliders] == [1, 0.5, 4, 0, 0.5, 2]
    for slider in sliders:
        assert slider.keys() == {"label", "value", "minimum", "maximum", "step", "choices"}
        assert slider["minimum"] <= slider["value"] <= slider["maximum"]


def test_memory_is_counted_in_bytes(served: Served) -> None:
    """webuiapi's caller sees what is left on the server's machine."""
    found = served.client.get(f"{API}/memory").json()
    assert found["ram"]["free"] + found["ram"]["used"] == found["ram"]["total"] > 0
    assert list(found["cuda"]) == ["error"]


@pytest.mark.parametrize("model", ["sdxl-inpaint", "/models/RealVis XL.safetensors", "/models/other/"])
def test_a_models_title_names_its_shape_and_no_path(serve: Serve, model: str) -> None:
    """image-generation-mcp asks a model without "xl" in its title for pictures of 512 pixels."""
    served = serve(model=model)
    (row,) = served.client.get(f"{API}/sd-models").json()
    assert "xl" in row["title"].lower()
    assert row["title"].endswith(".safetensors")
    assert "/" not in str(row)
    assert served.client.get(f"{API}/options").json()["sd_model_checkpoint"] == row["title"]


@pytest.mark.parametrize("path", NOTHING)
def test_a_route_without_effect_reads_no_body(served: Served, path: str) -> None:
    """Photoshop sends JSON's content type with nothing behind it, webuiapi not even that."""
    bodies: list[dict[str, Any]] = [
        {},
        {"headers": {"content-type": "application/json"}},
        {"content": b"{broken", "headers": {"content-type": "application/json"}},
        {"json": {"sd_model_checkpoint": "other.safetensors", "anything": None}},
    ]
    for body in bodies:
        answer = served.client.post(f"{API}/{path}", **body)
        assert (answer.status_code, answer.text) == (200, NOTHING[path])
    assert served.client.get(f"{API}/options").json() == SHAPES["options"]


@pytest.mark.parametrize(
    "path", ["interrogate", "extra-single-image", "extra-batch-images", "controlnet/model_list", "nothing"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_there_is_not_found(served: Served, method: str, path: str) -> None:
    """AI-Render compares the words; sd-backend-client takes any other status for a route that is there."""
    assert detail(served.client.request(method, f"{API}/{path}"), 404) == "Not Found"
    assert served.client.get("/system_stats").status_code == 404


def test_another_method_is_refused_in_the_same_shape(served: Served) -> None:
    """A client reads ``detail`` of every error."""
    assert detail(served.client.get(f"{API}/txt2img"), 405)


def test_basic_credentials_are_a_key(serve: Serve) -> None:
    """Clients of a web UI with --api-auth have fields for a user and a password, and no other."""
    served = serve()
    key = served.key()
    for credentials, status in ((("me", key), 200), ((key, ""), 200), (("me", "inp_0_0"), 401)):
        answer = served.client.get(f"{API}/options", auth=credentials)
        assert answer.status_code == status
    refused = served.client.get(f"{API}/sd-models")
    assert detail(refused, 401)
    assert refused.headers["www-authenticate"].startswith("Basic")
    metrics = served.calling(key=served.key(scopes=("metrics",)))
    for path in ("options", "loras", "progress"):
        assert detail(metrics.get(f"{API}/{path}"), 403)
    metrics.close()
