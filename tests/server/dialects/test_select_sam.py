"""POST /v2/select with SAM in its own process: a tiny one of the real classes, with random weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.service import selecting
from tests.support.scenes import scene
from tests.support.served import Serve, Served, b64, eventually, file_of
from tests.support.tiny_sam import save_tiny_sam

pytest_plugins = ["tests.support.served_fixtures"]

SELECT, OFFER = "/v2/select", "/v2/sdxl-inpaint"
DRAWN = scene("steel star in the sky", (300, 220))
FILE = file_of(Image.fromarray(DRAWN.picture))
CLICK = {"image": b64(FILE), "points": [[135, 110, 1]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def with_sam(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Serve as if the folder were an installed model, on the CPU."""
    monkeypatch.setattr(selecting, "installed", lambda: folder)
    return serve(device="cpu")


def pid_of(served: Served) -> int:
    pid = served.running.service.selecting._sam.pid
    assert isinstance(pid, int)
    return pid


def ok(served: Served, **fields: object) -> dict[str, Any]:
    response = served.client.post(SELECT, json=fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_clicks_boxes_and_the_subject_are_answered_by_sam(with_sam: Served) -> None:
    """With one process, and a score; a stroke still snaps."""
    served = with_sam
    assert served.client.get(OFFER).json()["select"] == {"methods": ["sam", "snap"], "missing": {}}
    prepared = ok(served, image=b64(FILE), prepare=True)
    assert (prepared["method"], prepared["mask"]) == ("sam", None)
    pid = pid_of(served)
    named = {"picture": prepared["picture"]}
    for hints in (
        {"points": [[135, 110, 1]]},
        {"points": [[135, 110, 1], [5, 5, 0]], "variant": "larger"},
        {"box": [60, 30, 220, 190]},
        {"what": "subject"},
        {"what": "background"},
    ):
        said = ok(served, **named, **hints)
        assert (said["method"], said["width"], said["height"]) == ("sam", 300, 220)
        assert 0 <= said["score"] <= 1
        assert said == ok(served, **named, **hints)
    stroke = b64(file_of(Image.fromarray(DRAWN.truth)))
    assert ok(served, **named, scribble=stroke)["method"] == "snap"
    assert ok(served, **CLICK, method="snap")["method"] == "snap"
    assert pid_of(served) == pid


def test_a_dead_process_is_started_again(with_sam: Served) -> None:
    """A click after its death is answered as before, and it does not outlive the server."""
    served = with_sam
    first = ok(served, **CLICK)
    pid = pid_of(served)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert ok(served, **CLICK) == first
    again = pid_of(served)
    assert again != pid
    served.stop()
    assert not Path(f"/proc/{again}").exists()


def test_weights_that_cannot_be_loaded_are_one_sentence(
    serve: Serve, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And snap still works."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setattr(selecting, "installed", lambda: tmp_path)
    served = serve(device="cpu")
    response = served.client.post(SELECT, json=CLICK)
    assert response.status_code == 422
    assert "holds no SAM 2 model" in response.json()["error"]
    assert ok(served, **CLICK, method="snap")["box"] is not None


def test_the_http_process_does_not_import_torch() -> None:
    """The modules that it imports for SAM load it only in functions."""
    code = (
        "import sys, server.service.selecting, server.engines.selector\n"
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
