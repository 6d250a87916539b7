"""LoRAs over HTTP: by name, in every notation, and never by a path."""

import json
import socket
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inpaint import Engine, InpaintRequest
from inpaint.lora.spec import LoraUse
from inpaint.model.load import Model
from server.engines.messages import Link, request_from, request_message
from server.engines.worker import WorkerSpec, load_engine
from server.settings import Settings
from server.uvicorn_server import spec_of
from tests.support.checkpoint_files import safetensors
from tests.support.lora_making import write_lora
from tests.support.served import FakeEngine, Serve, Served, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
BOTH = (LoraUse("other", 1.0), LoraUse("style", 0.8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two LoRAs, which are valid only until they are loaded."""
    made = tmp_path / "loras"
    made.mkdir()
    for name in ("style", "other"):
        (made / f"{name}.safetensors").write_bytes(safetensors({"a.lora_A.weight": [4]}))
    return made


@pytest.fixture
def served(serve: Serve, folder: Path) -> Served:
    """Serve with those LoRAs."""
    return serve(loras=folder)


def asked(served: Served) -> InpaintRequest:
    """Return the last request that the engine got."""
    assert isinstance(served.engine, FakeEngine)
    return served.engine.requests[-1]


@pytest.mark.parametrize(
    "loras",
    [
        [{"name": "style", "scale": 0.8}, {"name": "other"}],
        [{"name": "style", "scale": "0.8"}, {"name": "other", "scale": 1}],
        "style:0.8,other",
        ["style:0.8", "other"],
    ],
    ids=repr,
)
def test_a_request_names_loras(loras: object, served: Served) -> None:
    """A program sends objects, a user at a terminal sends text."""
    response = served.client.post(V1, json=body(loras=loras))
    assert response.status_code == 200, response.text
    assert asked(served).loras == BOTH


def test_a_form_names_them_in_text(served: Served) -> None:
    """A form and the tags of a prompt name LoRAs as well."""
    fields = body(prompt="a circle <lora:style:0.8>", loras="other")
    response = served.client.post(V1, files={name: (None, str(value)) for name, value in fields.items()})
    assert response.status_code == 200, response.text
    assert (asked(served).loras, asked(served).prompt) == (BOTH, "a circle")


def test_a_queued_request_keeps_its_loras(served: Served) -> None:
    """LoRAs are stored with the request and survive a restart."""
    request_id = served.client.post(V2, json=body(loras="style:0.8,other")).json()["request_id"]
    eventually(lambda: served.client.get(f"/v2/requests/{request_id}").json()["status"] == "COMPLETED")
    assert asked(served).loras == BOTH


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "unknown": ({"loras": "stile"}, "loras: there is no LoRA 'stile'; there are other, style"),
    "unknown in the prompt": (
        {"prompt": "<lora:stile:1>"},
        "there is no LoRA 'stile'; there are other, style",
    ),
    "a path": ({"loras": "/etc/passwd"}, "loras: must name a LoRA"),
    "a way out": ({"loras": [{"name": "../loras/style"}]}, "loras: must name a LoRA"),
    "too strong": ({"loras": "style:5"}, "loras: the scale of the LoRA style must be a number from -4 to 4"),
    "a number": ({"loras": 7}, "loras: must be a list"),
    "a broken tag": ({"prompt": "<lora:style:x>"}, "prompt: the scale of the LoRA style"),
    "too many": ({"loras": [f"style{i}" for i in range(9)]}, "loras: must be at most 8 LoRAs"),
}


@pytest.mark.slow
@pytest.mark.parametrize("route", [V1, V2])
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_lora_is_refused_immediately(what: str, route: str, served: Served) -> None:
    """A wrong LoRA is refused before it is stored or charged, and the error shows names but no path."""
    fields, says = WRONG[what]
    response = served.client.post(route, json=body(**fields))
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]
    assert str(served.settings.loras) not in response.json()["error"]
    assert isinstance(served.engine, FakeEngine)
    assert served.engine.requests == []


def test_the_server_lists_its_loras(served: Served, folder: Path) -> None:
    """The page offers the LoRAs; one that is added later appears without a restart."""
    assert served.client.get(V2).json()["loras"] == ["other", "style"]
    (folder / "new.safetensors").write_bytes(b"")
    assert served.client.get(V2).json()["loras"] == ["new", "other", "style"]


def test_the_folder_reaches_the_workers(tmp_path: Path) -> None:
    """``inpaint serve --loras DIR`` sets the folder of each worker."""
    assert spec_of(Settings(loras=tmp_path)).loras == str(tmp_path)
    assert spec_of(Settings()).loras is None


def test_a_workers_engine_paints_with_what_crosses_the_wire(
    checkpoint: Callable[[int], Path],
    model: Model,
    tmp_path: Path,
    request_for: Callable[..., InpaintRequest],
) -> None:
    """A LoRA in the pool's message changes the worker's picture."""
    write_lora(tmp_path, "style", model)
    request = request_for(prompt="a red circle <lora:style:0.5>", num_inference_steps=3)
    ours, theirs = socket.socketpair()
    sender, receiver = Link(ours), Link(theirs)
    sender.send(request_message(1, request, 0, "", inf))
    sender.after_sent(sender.close)
    (message,) = receiver.messages()
    assert list(sender.messages()) == []
    json.dumps(message.fields["settings"])
    spec = WorkerSpec(model=str(checkpoint(9)), device="cpu", loras=str(tmp_path))
    engine: Any = load_engine(spec, 0, 1)
    try:
        painted = engine.submit(request_from(message), key="", deadline_s=inf).result(60).images[0]
    finally:
        engine.close()
    with Engine(model, loras=tmp_path) as same:
        expected = same.paint(request).images[0]
        base = same.paint(request_for(num_inference_steps=3)).images[0]
    assert np.abs(np.asarray(painted, int) - np.asarray(expected, int)).max() <= 1
    assert np.abs(np.asarray(painted, int) - np.asarray(base, int)).max() > 8
