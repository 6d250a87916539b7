"""Disks, rights, streams and variables that are not as they should be: one sentence, never a bug of ours.

Each runs the command as a process of its own, without the rights that root has over every file.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.support.lora_making import write_lora

ANOTHER = 54321  # the number of another user
CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root may use every file
PR_CAPBSET_DROP = 24
SMALL = ("--steps", "1", "--strength", "1", "--scheduler", "DDIM", "--seed", "5")


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a picture, a mask and a home."""
    Image.radial_gradient("L").resize((128, 128)).convert("RGB").save(tmp_path / "photo.png")
    mask = Image.new("L", (128, 128))
    mask.paste(255, (32, 32, 96, 96))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "home").mkdir()
    return tmp_path


def without_rights() -> None:
    """Make root a user like any other; it stays root, since Python itself may lie in root's home."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in CAPABILITIES:
            assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def inpaint(
    place: Path, *words: str, shell: str = "", python: tuple[str, ...] = (), env: Mapping[str, str] = {},
    before: Callable[[], None] = lambda: None,
) -> Ended:  # fmt: skip
    """Run ``inpaint WORDS`` without root's rights; ``shell`` is a redirection."""
    plain = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
    }
    command = [sys.executable, *python, "-m", "inpaint", *words]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]

    def prepare() -> None:
        before()
        without_rights()

    done = subprocess.run(
        command, cwd=place, env={**plain, **env}, preexec_fn=prepare, capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert "Traceback" not in err, err
    assert "please report" not in err, err
    assert "Exception ignored" not in err, err
    return Ended(done.returncode, out, err)


RUN = ("run", "photo.png", "--mask", "mask.png", "-p", "a red circle", *SMALL)


def mostly_slow(names: Iterable[str], *quick: str) -> list[object]:
    """Return the names as parameters, all but the ``quick`` ones marked slow: each starts Python."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


PRINTING = {
    "doctor": ("doctor",),
    "doctor --json": ("doctor", "--json"),
    "info": ("info", "photo.png"),
    "info --json": ("info", "photo.png", "--json"),
    "loras list --json": ("loras", "list", "--json"),
    "models list --json": ("models", "list", "--json"),
    "models checksums": ("models", "checksums", "sdxl-base"),
    "schedulers": ("schedulers",),
    "schedulers --json": ("schedulers", "--json"),
    "--help": ("--help",),
    "run --help": ("run", "--help"),
    "--version": ("--version",),
    "run --json --dry-run": (*RUN, "--json", "--dry-run"),
}


@pytest.fixture
def listed(place: Path) -> Path:
    """Return the folder with a LoRA in it, so that every list has a line."""
    from tests.support.checkpoint_files import safetensors

    loras = place / "home" / ".local" / "share" / "inpaint" / "models" / "loras"
    loras.mkdir(parents=True)
    (loras / "style.safetensors").write_bytes(safetensors({"a.lora_A.weight": [4]}))
    return place


@pytest.mark.parametrize("what", mostly_slow(PRINTING, "schedulers", "info --json", "loras list --json"))
def test_a_full_disk_behind_stdout_is_one_sentence(what: str, listed: Path) -> None:
    """``inpaint … --json > results`` on a full disk has failed, and its exit code says so."""
    done = inpaint(listed, *PRINTING[what], shell="> /dev/full")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "error: stdout cannot be written: No space left on device"


@pytest.mark.parametrize(
    "what", mostly_slow(("info", "loras list --json", "schedulers --json", "--help"), "info")
)
def test_a_closed_stdout_is_one_sentence(what: str, listed: Path) -> None:
    """``>&-``: nothing is written into a file that has taken stdout's number."""
    done = inpaint(listed, *PRINTING[what], shell=">&-")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "error: stdout cannot be written: Bad file descriptor"


@pytest.mark.parametrize(
    "what", mostly_slow(("info", "schedulers", "schedulers --json", "--help"), "schedulers")
)
def test_a_pipe_that_was_closed_is_no_error(what: str, listed: Path) -> None:
    """``inpaint … | head -1``."""
    done = inpaint(listed, *PRINTING[what], shell="| true")
    assert done.err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell", ["2> /dev/full", "2>&-", "2>&- >&-", "<&-"], ids=["full", "closed", "both", "stdin"]
)
def test_a_picture_is_painted_without_streams(shell: str, place: Path) -> None:
    """A log on a full disk is no reason to lose a picture."""
    assert inpaint(place, *RUN, "-o", "out.png", shell=shell).code == 0
    with Image.open(place / "out.png") as painted:
        painted.load()
        assert painted.size == (128, 128)


def test_a_list_of_paths_from_a_closed_stdin_is_empty(place: Path) -> None:
    """``inpaint run - <&-``."""
    done = inpaint(place, "run", "-", "-p", "x", shell="<&-")
    assert (done.code, done.err) == (2, "error: image: stdin holds no path; write one per line\n")


# Another user's home.

HOMES = {
    "models list": (
        ("models", "list"),
        4,
        "the models folder {home} cannot be read (Permission denied); set INPAINT_MODELS",
    ),
    "models list --json": (("models", "list", "--json"), 4, "the models folder {home} cannot be read"),
    "models fetch": (
        ("models", "fetch", "sdxl-configs"),
        1,
        "cannot write {home}: Permission denied; set INPAINT_MODELS",
    ),
    "models verify": (("models", "verify", "sdxl-base"), 1, "Permission denied"),
    "loras list": (
        ("loras", "list"),
        4,
        "{home}/loras: the folder of LoRA files cannot be read (Permission denied); choose",
    ),
    "loras pin": (("loras", "pin", "x"), 4, "the folder of LoRA files cannot be read (Permission denied)"),
    "run with a LoRA": (
        (*RUN, "--lora", "a"),
        4,
        "the folder of LoRA files cannot be read (Permission denied)",
    ),
    "run with a tag": ((*RUN, "-p", "x <lora:a:1>"), 4, "choose another with --loras or INPAINT_LORAS"),
    "serve": (("serve", "--port", "0"), 2, "--data: "),
    "keys list": (("keys", "list"), 1, "Permission denied"),
}


@pytest.fixture
def locked_home(place: Path) -> Path:
    """Return the home of another user, which cannot be looked into."""
    home = place / "home"
    (home / ".local" / "share" / "inpaint" / "models").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(home, ANOTHER, ANOTHER)
    home.chmod(0o700 if os.geteuid() == 0 else 0)
    return home


@pytest.mark.parametrize("what", mostly_slow(HOMES, "models list", "loras list", "run with a LoRA"))
def test_the_home_of_another_user_is_one_sentence(what: str, place: Path, locked_home: Path) -> None:
    """``sudo -u nobody`` keeps root's HOME; so does a service without one of its own."""
    words, code, says = HOMES[what]
    done = inpaint(place, *words)
    assert says.format(home=f"{locked_home}/.local/share/inpaint/models") in done.err.splitlines()[-1]
    assert done.code == code


@pytest.mark.slow
def test_doctor_reports_the_home_of_another_user(place: Path, locked_home: Path) -> None:
    """It is the command for finding out what is wrong, so it goes on and says the rest as well."""
    done = inpaint(place, "doctor")
    assert done.code == 1
    assert "!!  models folder  the models folder" in done.out
    assert "Permission denied" in done.out
    assert "python" in done.out


@pytest.mark.slow
def test_a_picture_is_painted_in_the_home_of_another_user(place: Path, locked_home: Path) -> None:
    """The demo model needs no folder."""
    assert inpaint(place, *RUN, "-o", "out.png").code == 0


# Files and folders without rights.

CLOSED = {
    "picture": ("photo.png", 0o000, (*RUN, "-o", "out.png"), "image: photo.png cannot be read by this user"),
    "picture of info": (
        "photo.png",
        0o000,
        ("info", "photo.png"),
        "'photo.png' is not readable",
    ),
    "mask": ("mask.png", 0o000, (*RUN, "-o", "out.png"), "--mask: mask.png cannot be read by this user"),
    "jobs": (
        "jobs.jsonl",
        0o000,
        ("run", "--jobs", "jobs.jsonl"),
        "'--jobs': path 'jobs.jsonl' is not readable",
    ),
    "from": (
        "old.png",
        0o000,
        (*RUN, "--from", "old.png"),
        "'--from': path 'old.png' is not readable",
    ),
    "LoRA": (
        "loras/a.safetensors",
        0o000,
        (*RUN, "--loras", "loras", "--lora", "a"),
        "a.safetensors cannot be read",
    ),
    "LoRA folder": (
        "loras",
        0o000,
        (*RUN, "--loras", "loras", "--lora", "a"),
        "'--loras': path 'loras' is not readable",
    ),
    "output folder": ("out", 0o555, (*RUN, "-o", "out/x.png"), "the folder out is not writable"),
    "report folder": (
        "out",
        0o555,
        (*RUN, "-o", "x.png", "--report", "out/r.jsonl"),
        "report: out/r.jsonl cannot be written",
    ),
    "model": ("m.safetensors", 0o000, (*RUN, "--model", "m.safetensors"), "m.safetensors"),
    "model folder": ("model", 0o000, (*RUN, "--model", "./model"), "model"),
}


@pytest.mark.parametrize("what", mostly_slow(CLOSED, "mask", "LoRA"))
def test_what_this_user_may_not_use_is_named(what: str, place: Path) -> None:
    """The sentence has the file or the folder."""
    name, mode, words, says = CLOSED[what]
    for folder in ("loras", "out", "model"):
        (place / folder).mkdir()
    for file in ("jobs.jsonl", "old.png", "loras/a.safetensors", "m.safetensors"):
        (place / file).write_bytes(b"{}")
    (place / name).chmod(mode)
    done = inpaint(place, *words)
    assert done.code in (1, 2, 4)
    assert says in " ".join(done.err.replace("│", " ").split())  # typer draws a box around its own errors
    assert not (place / "out.png").exists()


@pytest.mark.slow
def test_read_only_folders_do_not_keep_a_picture_from_being_painted(place: Path, locked_home: Path) -> None:
    """A container with a read-only root: HOME and caches are closed, the output's folder is open."""
    shut = place / "shut"
    shut.mkdir(mode=0o555)
    names = (
        "XDG_CACHE_HOME",
        "HF_HOME",
        "MPLCONFIGDIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "TMPDIR",
    )
    done = inpaint(place, *RUN, "-o", "out.png", env=dict.fromkeys(names, str(shut)))
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_lora_is_used_from_a_folder_that_cannot_be_written(place: Path, model: object) -> None:
    """Nothing is pinned there, and the LoRA is hashed each time."""
    from inpaint.demo import demo_checkpoint
    from inpaint.model.load import load_model, pick_device, pick_dtype

    loras = place / "loras"
    loras.mkdir()
    demo = demo_checkpoint().path
    device = pick_device("cpu")
    write_lora(loras, "style", load_model(demo, "demo", device, pick_dtype("float32", device, 1)))
    loras.chmod(0o555)
    done = inpaint(place, *RUN, "--loras", "loras", "--lora", "Style:0.5", "-o", "out.png")
    assert done.code == 0, done.err
    assert [path.name for path in loras.iterdir()] == ["style.safetensors"]


# Variables.

VARIABLES = {
    "INPAINT_MODELS of nobody": (
        {"INPAINT_MODELS": "~no such user/x"},
        ("models", "list"),
        "INPAINT_MODELS: '~no such user/x' begins",
    ),
    "INPAINT_LORAS of nobody": ({"INPAINT_LORAS": "~no such user/x"}, ("loras", "list"), "INPAINT_LORAS: "),
    "--loras of nobody": ({}, ("loras", "list", "--loras", "~no such user/x"), "--loras: "),
    "INPAINT_LORAS is a file": (
        {"INPAINT_LORAS": "photo.png"},
        ("loras", "list"),
        "photo.png: the folder of LoRA files cannot be read (Not a directory)",
    ),
    "INPAINT_MODELS is a file": (
        {"INPAINT_MODELS": "photo.png"},
        ("models", "fetch", "sdxl-configs"),
        "photo.png",
    ),
    "INPAINT_PORT": ({"INPAINT_PORT": "many"}, ("serve",), "INPAINT_PORT: "),
    "INPAINT_WORKERS": ({"INPAINT_WORKERS": "-1"}, ("serve",), "INPAINT_WORKERS: "),
    "INPAINT_CORS_ORIGINS": (
        {"INPAINT_CORS_ORIGINS": "a,b"},
        ("serve",),
        "INPAINT_CORS_ORIGINS: must be a JSON list",
    ),
    "INPAINT_METADATA": ({"INPAINT_METADATA": "perhaps"}, ("serve",), "INPAINT_METADATA: "),
    "INPAINT_RATE": ({"INPAINT_RATE": "often"}, ("serve", "--port", "0"), "INPAINT_RATE"),
    "INPAINT_DATABASE_URL": (
        {"INPAINT_DATABASE_URL": "nonsense"},
        ("serve", "--port", "0"),
        "INPAINT_DATABASE_URL",
    ),
    "INPAINT_BLOBS_URL": (
        {"INPAINT_BLOBS_URL": "nonsense://x"},
        ("serve", "--port", "0"),
        "INPAINT_BLOBS_URL",
    ),
    "a SOCKS proxy": (
        {"https_proxy": "socks5://127.0.0.1:9"},
        ("models", "fetch", "sdxl-configs"),
        "sdxl-configs: https_proxy names a SOCKS proxy, which needs another package: pip install socksio",
    ),
    "another SOCKS proxy": (
        {"ALL_PROXY": "socks5h://127.0.0.1:9"},
        ("models", "fetch", "sdxl-configs"),
        "ALL_PROXY names a SOCKS proxy",
    ),
    "no proxy": ({"https_proxy": "nonsense"}, ("models", "fetch", "sdxl-configs"), "sdxl-configs: "),
    "a proxy of another kind": (
        {"https_proxy": "ftp://127.0.0.1:9"},
        ("models", "fetch", "sdxl-configs"),
        "sdxl-configs: ",
    ),
    "HF_ENDPOINT": ({"HF_ENDPOINT": "nonsense"}, ("models", "fetch", "sdxl-configs"), "sdxl-configs: "),
}


@pytest.mark.parametrize(
    "what", mostly_slow(VARIABLES, "INPAINT_MODELS of nobody", "INPAINT_LORAS is a file", "a SOCKS proxy")
)
def test_a_variable_without_sense_is_named(what: str, place: Path) -> None:
    """An operator sees which one to change."""
    env, words, says = VARIABLES[what]
    done = inpaint(place, *words, env=env)
    assert done.code in (1, 2, 4)
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last


@pytest.mark.parametrize(
    "env",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp932"}, {"PYTHONIOENCODING": "gbk"},
        {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "cp1252"},
    ],
    ids=lambda env: "-".join(env.values()),
)  # fmt: skip
@pytest.mark.parametrize(
    "what",
    mostly_slow(("info", "info --json", "doctor", "run --help", "run --json --dry-run"), "info --json"),
)
def test_a_small_character_set_is_enough(what: str, env: dict[str, str], place: Path) -> None:
    """A console of another country shows what it can; JSON stays JSON."""
    shutil.copy(place / "photo.png", place / "фото é.png")
    words = tuple("фото é.png" if word == "photo.png" else word for word in PRINTING[what])
    done = inpaint(place, *words, env=env)
    assert done.code == 0, done.err
    if what.endswith(("--json", "--dry-run")):
        found = json.loads(done.out)
        assert found.get("format", found.get("state")) in ("PNG", "planned")
        if "PYTHONIOENCODING" in env:  # with LANG=C, Python does not know which letters the bytes are
            assert "é" in str(found)


# Python itself.


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [RUN, ("info", "photo.png"), ("models", "list")], ids=["run", "info", "models"]
)
def test_python_without_docstrings_is_explained(words: tuple[str, ...], place: Path) -> None:
    """transformers reads its own docstrings; without them the model looked damaged."""
    for python, env in ((("-OO",), {}), ((), {"PYTHONOPTIMIZE": "2"})):
        done = inpaint(place, *words, python=python, env=env)
        assert done.code == 1
        assert "Python was started with -OO (or PYTHONOPTIMIZE=2)" in done.err


@pytest.mark.slow
def test_python_without_assertions_paints(place: Path) -> None:
    """``-O`` is harmless."""
    assert inpaint(place, *RUN, "-o", "out.png", python=("-O",)).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, {"PYTHONWARNINGS": "error"}], ids=["-W error", "PYTHONWARNINGS"])
def test_warnings_as_errors_are_explained(env: dict[str, str], place: Path) -> None:
    """The libraries warn; that is what was asked for, and no bug. If none warns, it paints."""
    done = inpaint(place, *RUN, "-o", "out.png", env=env, python=() if env else ("-W", "error"))
    if done.code:
        assert "Python was told to turn warnings into errors (-W error or PYTHONWARNINGS)" in done.err
    else:
        assert (place / "out.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("info", "photo.png"), RUN, ("models", "list"), ("loras", "list", "--loras", "x"),
    ("schedulers",)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_working_folder_that_was_deleted(words: tuple[str, ...], place: Path) -> None:
    """A shell may stand in a folder that another has removed."""
    gone = place / "gone"
    gone.mkdir()

    def delete() -> None:
        os.chdir(gone)
        gone.rmdir()

    done = inpaint(place, *words, before=delete)
    if done.code:
        assert done.err.splitlines()[-1].startswith("error: ")
    else:
        assert words[0] in ("models", "loras", "schedulers")
