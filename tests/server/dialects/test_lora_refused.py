"""A LoRA that is installed and cannot be used: the caller's to change, so no client tries it again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inpaint.errors import DeviceError, InpaintError, LockError, ModelError
from inpaint.model.load import Model
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from server.errors import headers_of, status_of
from tests.inpaint.lora.test_lookup import LORA
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.checkpoint_files import safetensors
from tests.support.lora_making import write_lora
from tests.support.served import FakeEngine, PictureHost, Serve, Served, body, eventually, server_for

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
SENTENCE = "sd15.safetensors is not a LoRA for this model: it was made for Stable Diffusion 1"


@pytest.fixture
def charging(serve: Serve) -> tuple[Served, FakeEngine, str]:
    """Serve for credits, with an engine that finds that a LoRA cannot be used; with a key of 100."""
    engine = FakeEngine()
    engine.failures.append(ModelError(SENTENCE))
    served = serve(engine, metering=True)
    return served, engine, served.key(balance=100)


def balance(served: Served, key: str) -> float:
    """Return the credits that a key has."""
    with served.calling(key=key) as client:
        return float(client.get("/v1/get-user-credits").json()["credits"])


def test_v1_answers_422_once_and_gives_the_credits_back(charging: tuple[Served, FakeEngine, str]) -> None:
    """A 500 would be tried again by every client, and painted again for each."""
    served, engine, key = charging
    with served.calling(key=key) as client:
        answer = client.post(V1, json=body())
    assert (answer.status_code, answer.json()) == (422, {"error": SENTENCE})
    assert "retry-after" not in answer.headers
    assert len(engine.requests) == 1
    assert balance(served, key) == 100


def test_v2_fails_with_the_sentence_and_gives_the_credits_back(
    charging: tuple[Served, FakeEngine, str],
) -> None:
    """A caller who polls gets it as well, and the request is not begun again."""
    served, engine, key = charging
    with served.calling(key=key) as client:
        answer = ended(client, submitted(client))
    assert answer.status_code == 422
    assert (answer.json()["status"], answer.json()["error"]) == ("FAILED", SENTENCE)
    assert answer.json()["metrics"]["cost"] == 0
    assert len(engine.requests) == 1
    assert balance(served, key) == 100


def test_the_event_stream_ends_with_the_sentence(charging: tuple[Served, FakeEngine, str]) -> None:
    """The page shows it."""
    served, _, key = charging
    with served.calling(key=key) as client:
        request_id = submitted(client)
        ended(client, request_id)
        with client.stream("GET", f"/v2/requests/{request_id}/events") as stream:
            lines = list(stream.iter_lines())
    assert "event: failed" in lines
    assert SENTENCE in "".join(lines)


def test_an_idempotent_request_fails_alike_when_it_is_repeated(
    charging: tuple[Served, FakeEngine, str],
) -> None:
    """The repetition is the same request, and is not painted."""
    served, engine, key = charging
    with served.calling(key=key, Idempotency_Key="once") as client:
        answers = [client.post(V1, json=body()) for _ in range(3)]
    assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(422, SENTENCE)}
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelError("x"), 422),
        (LockError("x"), 500),
        (DeviceError("x"), 503),
        (InpaintError("x"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_only_what_a_request_can_change_is_422(error: InpaintError, status: int) -> None:
    """A lock that cannot be trusted is the operator's, and a device that failed may come back."""
    assert status_of(error) == status
    assert ("Retry-After" in headers_of(error)) == (status == 503)


FILES: dict[str, tuple[bytes, str]] = {
    "another model's": (LORA, "foreign"),
    "no LoRA": (safetensors({"w": [4]}), "none"),
    "cut off": (LORA[:-1], "cut"),
    "a pickle": (b"PK\x03\x04 a zip", "pickle"),
}


@pytest.fixture(scope="module")
def painting(
    tmp_path_factory: pytest.TempPathFactory,
    picture_host: PictureHost,
    checkpoint: Callable[[int], Path],
    models: Callable[[int], Model],
) -> Iterator[Served]:
    """Serve with the tiny model and a folder of LoRAs, of which one works."""
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder, "Works, it does", models(9))
    (folder / "sub").mkdir()
    for content, name in FILES.values():
        (folder / "sub" / f"{name}.safetensors").write_bytes(content)
    engine = InProcessClient(WorkerSpec(model=str(checkpoint(9)), device="cpu", loras=str(folder)))
    with server_for(tmp_path_factory.mktemp("data"), picture_host, engine, loras=folder) as served:
        eventually(lambda: served.client.get("/readyz").status_code == 200)
        yield served


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_used_is_422_and_the_engine_goes_on(what: str, painting: Served) -> None:
    """The sentence names the file without the operator's folders; the next request is painted."""
    _, name = FILES[what]
    answer = painting.client.post(V1, json=body(loras=[{"name": name.upper()}]))
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith(f"{name}.safetensors")
    assert str(painting.settings.loras) not in answer.text
    good = painting.client.post(V1, json=body(prompt="a circle <lora:works, it does:0.5>"))
    assert good.status_code == 200, good.text


@pytest.mark.parametrize("route", [V1, V2])
def test_an_unreadable_folder_of_loras_is_one_sentence(route: str, serve: Serve, tmp_path: Path) -> None:
    """It is the operator's to mend; the request is refused without a charge, and the page still works."""
    place = tmp_path / "loras"
    place.write_bytes(LORA)  # a file: root may look into every folder
    served = serve(loras=place)
    answer = served.client.post(route, json=body(loras="style"))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("the folder of LoRA files cannot be read (Not a directory)")
    assert str(place) not in answer.text
    assert served.client.get(V2).json()["loras"] == []
    assert served.client.post(V1, json=body()).status_code == 200
