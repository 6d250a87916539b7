"""The wheel, as users install it who have no checkout."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import PORTRAIT, ROOT
from tests.support.server_process import ServerProcess

MASK = ROOT / "docs" / "images" / "portrait_patch_mask.png"
STALE = (
    "inpaint/__pycache__/gone.cpython-311.pyc",
    "inpaint/demo/model/unet/diffusion_pytorch_model.safetensors.1234.part",
    "server/web/js/__pycache__/x.pyc",
    "build/lib/inpaint/gone.py",
    "dist/sdxl_inpaint-0.0.1-py3-none-any.whl",
    "sdxl_inpaint.egg-info/SOURCES.txt",
)


def tracked() -> list[str]:
    """What git knows, and is there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, among the leavings of earlier builds and runs."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    for name in STALE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"stale")
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment in which nothing but the wheel is installed.

    What it depends on is this environment's own, found through a path file; what is installed *here* from
    the checkout is not, because path files in that folder are not read.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (own,) = home.glob("lib/python3*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return home / "bin"


def run(command: list[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_what_git_tracks_of_both_packages_and_nothing_else(wheel: Path) -> None:
    """Page, demo model, Krita plugin and lock are there; no test, no tool, nothing left over from a build."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        assert file.read("inpaint/weights.lock") == (ROOT / "weights.lock").read_bytes()
    expected = {name for name in tracked() if name.startswith(("inpaint/", "server/"))}
    assert names == expected | {"inpaint/weights.lock"}
    assert {"server/web/index.html", "server/web/js/main.js", "inpaint/demo/demo.lock"} <= names
    assert any(name.startswith("inpaint/demo/model/unet/") for name in names)
    plugin = {
        f"inpaint/integrations/krita/sdxl_inpaint{rest}" for rest in (".desktop", ".action", "/Manual.html")
    }
    assert plugin <= names
    assert "inpaint/integrations/comfyui/sdxl_inpaint_node.py" in names


@pytest.mark.slow
def test_an_installed_command_paints_far_from_any_checkout(installed: Path, tmp_path: Path) -> None:
    """``pip install sdxl-inpaint``, a photo, a mask, and the demo model that came along."""
    where = run(
        [installed / "python", "-c", "import inpaint, server; print(inpaint.__file__)"], tmp_path
    ).stdout
    assert Path(where.strip()).is_relative_to(installed.parent)
    command = [installed / "inpaint", "run", PORTRAIT, "--mask", MASK, "-p", "a blue heart", "--seed", 4]
    done = run([*command, "--steps", 4, "--scheduler", "DDIM", "-o", "painted.png", "--json"], tmp_path)
    assert json.loads(done.stdout)["seeds"] == [4]
    with Image.open(tmp_path / "painted.png") as painted, Image.open(PORTRAIT) as portrait:
        assert painted.size == portrait.size
        assert painted.convert("RGB").tobytes() != portrait.convert("RGB").tobytes()
    models = run([installed / "inpaint", "models", "list", "--json"], tmp_path).stdout
    assert "sdxl-inpainting" in models, "it knows what can be fetched: the lock came along"


@pytest.mark.slow
@pytest.mark.gate
def test_an_installed_server_has_the_page_and_paints(installed: Path, wheel: Path, tmp_path: Path) -> None:
    """``inpaint serve`` of the wheel: the page with all its files, and a picture over the API."""
    arguments = ["-m", "inpaint", "serve", "--port", "0", "--data", str(tmp_path / "data"), "--device", "cpu"]
    with ServerProcess(arguments, cwd=tmp_path, python=installed / "python") as server:
        page = server.client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        with zipfile.ZipFile(wheel) as file:
            files = {name: file.read(name) for name in file.namelist() if name.startswith("server/web/")}
        assert len(files) > 20
        for name, data in files.items():
            assert server.client.get(f"/web/{name.removeprefix('server/web/')}").content == data, name
        links = re.findall(r'(?:src|href)="(/?web/[^"]+)"', page.text)
        assert links
        for link in links:
            assert server.client.get(f"/{link.lstrip('/')}").status_code == 200, link
        server.wait_ready()
        pictures = {name: base64.b64encode(path.read_bytes()).decode() for name, path in
                    (("image", PORTRAIT), ("mask", MASK))}  # fmt: skip
        body = {**pictures, "prompt": "a blue heart", "num_inference_steps": 20, "strength": 0.3}
        answer = server.client.post("/v1/sdxl-inpaint", json=body | {"scheduler": "DDIM"})
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).format == "JPEG"
