"""What a newcomer types first: each wrong line costs a second and one sentence, not ten and a page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from inpaint.cli.run import early
from inpaint.cli.run.progress import Progress
from inpaint.cli.run.tasks import margins, pixels
from inpaint.errors import RequestError
from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

# Runs the command line and prints at the end whether it has imported torch.
_TORCH = """
import sys
from inpaint.cli import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules)
"""


def without_torch(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in a process of its own; torch must not have been imported in the end."""
    command = [sys.executable, "-c", _TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *out, torch = done.stdout.splitlines()
    assert torch == "False", "torch was imported, which takes seconds"
    return done.returncode, "\n".join(out), done.stderr


@pytest.fixture
def files(
    photo: Image.Image, grid_mask: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[object]:
    """``run photo.png --mask mask.png -p "a red circle"``, in a folder that has both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, filter(None, sys.path))))
    photo.save("photo.png")
    grid_mask.save("mask.png")
    Image.new("L", photo.size, 0).save("black.png")
    return ["run", "photo.png", "--mask", "mask.png", "-p", "a red circle"]


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (
            ["--model", "sdxl"],
            4,
            "did you mean sdxl-inpainting or sdxl-base? Known are demo, sdxl-inpainting,",
        ),
        (["--model", "demmo"], 4, "did you mean demo?"),
        (["--model", "sdxl-configs"], 4, "sdxl-configs is no model that can paint"),
        (["--model", "lcm-lora-sdxl", "--dry-run"], 4, "lcm-lora-sdxl is no model that can paint"),
        (["--model", "sdxl-inpainting"], 4, "inpaint models fetch sdxl-inpainting"),
        (["--device", "mps"], 2, "--device: GPUs of macOS (mps) are not supported; use --device cpu"),
        (["--device", "gpu", "--dry-run"], 2, "--device: must be auto, cpu, cuda or cuda:N"),
        (["--mask", "black.png"], 2, "--mask: nothing to repaint"),
    ],
)
def test_what_is_wrong_is_said_before_torch_is_imported(
    files: list[object], flags: list[str], code: int, says: str
) -> None:
    """Eight seconds of imports before "there is no such model" are eight seconds lost."""
    ended, _, err = without_torch(*files, *flags)
    assert (ended, err.count("\n")) == (code, 1), err
    assert says in err
    for part in ("sdxl-vae-fp16-fix", "sdxl-lightning"):
        assert part not in err, "only what can paint is offered"


def test_a_gpu_that_is_not_there_is_refused_early(
    paint: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is a sign of one, torch decides."""
    monkeypatch.setattr(early, "ROOT", tmp_path)
    done = paint("--device", "cuda")
    assert done.code == 2
    if sys.platform == "linux":
        assert done.err.endswith("cuda was asked for, but this machine has no GPU; use --device cpu\n")
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/kfd").touch()
        early.check_device("cuda")


def test_a_dry_run_names_the_size_of_the_model(files: list[object]) -> None:
    """The demo model works at 128 pixels, not at SDXL's 1024."""
    code, _, err = without_torch(*files, "--dry-run")
    assert (code, "at 128×128 for a 128-pixel model" in err) == (0, True), err
    _, _, err = without_torch(*files, "--dry-run", "--model", "sdxl-inpainting")
    assert "at 1024×1024 for a 1024-pixel model" in err


def test_without_arguments_there_is_help_or_a_sentence(inpaint: Run) -> None:
    """The bare command is a question; `inpaint run` needs an example more than 110 lines."""
    assert inpaint().code == 0
    assert "Commands" in inpaint().out
    done = inpaint("run")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "inpaint run photo.jpg --mask mask.png -p 'a red door'" in done.err


def test_help_and_version_work_as_commands(inpaint: Run) -> None:
    """As in git, pip and docker."""
    assert inpaint("version").out == inpaint("-V").out == inpaint("--version").out
    assert inpaint("help").out == inpaint("--help").out
    assert inpaint("help", "run").out == inpaint("run", "--help").out


@pytest.mark.parametrize(
    "command", ["", "run", "serve", "models", "models fetch", "loras list", "keys create"]
)
def test_help_names_no_type_after_a_flag(inpaint: Run, command: str) -> None:
    """A flag takes no value, so <bool> after it is a riddle."""
    done = inpaint(*command.split(), "--help")
    assert done.code == 0
    assert "--help" in done.out
    assert "bool" not in done.out


@pytest.mark.parametrize("command", ["", "run", "erase", "serve", "models", "info"])
def test_help_ends_with_examples(inpaint: Run, command: str) -> None:
    """Most people read the example first."""
    _, title, end = inpaint(*command.split(), "--help").out.rpartition("Example")
    assert title
    assert "inpaint " in end


@pytest.mark.parametrize(("words", "found"), [("inpaint ru", "run"), ("inpaint models fe", "fetch")])
def test_a_shell_completes_commands(words: str, found: str) -> None:
    """Quick enough for a key: no torch."""
    environment = os.environ | {
        "_INPAINT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    code = (
        "import sys\nfrom inpaint.cli import main\ntry:\n    main([])\n"
        "finally:\n    sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.returncode) == ([found], 0)


@pytest.mark.parametrize(
    "flags", [("https://example.com/a.jpg",), ("photo.png", "--mask", "https://example.com/a.jpg")]
)
def test_a_url_is_named_whole(inpaint: Run, flags: tuple[str, ...]) -> None:
    """As a path it would have lost a slash, and the sentence would be about a file that nobody named."""
    done = inpaint("run", *flags, "-p", "x")
    assert done.code == 2
    assert "https://example.com/a.jpg is a URL, and the command line reads files" in done.err


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("256", (256, 256, 256, 256)),
        ("50%", (100, 50, 100, 50)),
        ("0,0,50%,8", (0, 0, 100, 8)),
        ([1, 2, 3, 4], (1, 2, 3, 4)),
        (" 1 , 2,3,4", (1, 2, 3, 4)),
        ("0%,0,1%,0", (0, 0, 2, 0)),
    ],
)
def test_margins_are_pixels_or_parts(given: object, found: tuple[int, ...]) -> None:
    """Of a picture of 200×100."""
    assert pixels(margins(given), (200, 100)) == found


@pytest.mark.parametrize("given", ["", "1,2", "1,2,3,4,5", "-5", "50 %x", "9999%", "1.5", None, [0.5], "%"])
def test_other_margins_are_refused(given: object) -> None:
    """The sentence shows both ways to say it."""
    with pytest.raises(RequestError, match=r"0,0,256,0 or 0,0,50%,0.*such as 256"):
        margins(given)


def test_one_margin_is_for_all_sides(paint: Run) -> None:
    """The whole way to the picture."""
    done = paint("--extend", "50%", "-o", "wide.png")
    assert done.code == 0, done.err
    with Image.open("wide.png") as wide:
        assert wide.size == (256, 256)


class _Bar:
    """Notes what is written on it, as rich's bar would show it."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def add_task(self, description: str, **_: object) -> int:
        """Begin with this text."""
        self.shown.append(description)
        return 0

    def update(self, _: int, description: str, **__: object) -> None:
        """Show another text."""
        self.shown.append(description)


def test_the_bar_says_that_the_model_is_being_loaded() -> None:
    """An empty bar for five seconds looks like a hang."""
    bar = _Bar()
    with Progress(1, bar).loading("demo"):
        assert bar.shown[-1] == "loading demo…"
    assert bar.shown[-1] == ""
