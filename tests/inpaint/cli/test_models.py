"""``inpaint models``: data on stdout, words on stderr, errors left to the program's one handler."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inpaint.cli.models import app
from inpaint.errors import ModelError
from inpaint.weights import load_lock, sha256sums
from tests.support.checkpoint_files import write_folder
from tests.support.hub import serve


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_list_says_what_can_be_fetched(root: Path) -> None:
    """A newcomer sees the names, sizes and licences, and where the models go."""
    done = CliRunner().invoke(app, ["list"])
    assert done.exit_code == 0
    assert done.stderr == "", "it can be searched with grep"
    assert "demo" in done.stdout
    assert "sdxl-inpainting" in done.stdout
    assert "6.94 GB" in done.stdout
    assert str(root) in done.stdout


def test_list_json_is_one_object_a_model(root: Path) -> None:
    """A script reads stdout line by line."""
    done = CliRunner().invoke(app, ["list", "--json"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert rows[0] == {
        "name": "sdxl-inpainting",
        "state": "not installed",
        "path": str(root / "sdxl-inpainting"),
        "size_bytes": 6_941_218_469,
        "present_bytes": 0,
        "license": "openrail++",
        "license_url": rows[0]["license_url"],
    }
    assert [row["name"] for row in rows] == list(load_lock().names)


def test_an_import_can_be_listed_verified_and_summed(root: Path, tmp_path: Path) -> None:
    """The whole life of a user's own checkpoint."""
    given, run = write_folder(tmp_path / "given"), CliRunner()
    done = run.invoke(app, ["import", str(given), "--name", "mine"])
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert "copying unet/diffusion_pytorch_model.safetensors" in done.stderr
    assert '"mine"' in run.invoke(app, ["list", "--json"]).stdout
    done = run.invoke(app, ["verify", "mine", "--deep"])
    assert "mine is intact: 16 files" in done.stderr, done.output
    assert len(run.invoke(app, ["checksums", "mine"]).stdout.splitlines()) == 16


def test_checksums_go_to_stdout(root: Path) -> None:
    """`inpaint models checksums NAME > SHA256SUMS` holds nothing else."""
    entry = load_lock().get("sdxl-inpainting")
    assert entry is not None
    done = CliRunner().invoke(app, ["checksums", "sdxl-inpainting"])
    assert (done.stdout, done.stderr) == (sha256sums(entry), "")


def test_fetching_the_demo_has_nothing_to_do(root: Path) -> None:
    """The bundled model is there; no user is sent to the hub for it."""
    done = CliRunner().invoke(app, ["fetch", "demo"])
    assert done.exit_code == 0
    assert "nothing to fetch" in done.stderr
    assert CliRunner().invoke(app, ["verify", "demo"]).exit_code == 2


@pytest.mark.parametrize("command", ["fetch", "verify", "checksums"])
def test_an_unknown_name_lists_the_known_ones(root: Path, command: str) -> None:
    """A typo is answered with the names that would work, as the error that exits with 4."""
    done = CliRunner().invoke(app, [command, "sdxl"])
    assert isinstance(done.exception, ModelError)
    assert "did you mean sdxl-inpainting or sdxl-configs? Known are demo, sdxl-inpainting" in str(
        done.exception
    )


def test_verify_names_the_command_that_fetches(root: Path) -> None:
    """The error of a missing model can be copied and run."""
    done = CliRunner().invoke(app, ["verify", "sdxl-configs"])
    assert str(done.exception) == "sdxl-configs is not installed; run: inpaint models fetch sdxl-configs"


def test_fetch_asks_the_hub_for_the_pinned_commit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command goes through to the hub that HF_ENDPOINT names, and its error comes back as ours."""
    from huggingface_hub.utils import close_session

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve({}) as hub:
        close_session()
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = CliRunner().invoke(app, ["fetch", "sdxl-configs"])
        close_session()
    assert "licence openrail++ https://" in done.stderr
    assert "the hub refuses this repository" in str(done.exception)
    assert not (root / "sdxl-configs").exists()
