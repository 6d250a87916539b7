"""The command line as its users meet it: a real process, real files, exit codes and one-sentence errors."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import SCHEDULERS, Engine, InpaintRequest, cpu
from inpaint.canvas.crop import cut
from inpaint.model import load
from tests.conftest import EYES_MASK, PORTRAIT
from tests.support.cli_runs import QUICK, Run

pytest_plugins = ["tests.support.cli_fixtures"]


def leftovers() -> set[str]:
    """Every file in the working folder, hidden ones too, but the inputs."""
    return {str(p) for p in Path().rglob("*") if p.is_file()} - {"photo.png", "mask.png"}


def test_the_painted_picture_is_written_next_to_the_photo(paint: Run) -> None:
    """No flag but the needed ones, and the result is where one looks first."""
    done = paint()
    assert done.code == 0
    assert leftovers() == {"photo_inpainted.png"}
    assert "photo_inpainted.png (seed 5" in done.err
    assert done.out == "", "stdout is for programs"


def test_json_is_one_object_a_picture(paint: Run) -> None:
    """What a script needs: where, which seed, how long, with which settings."""
    (answer,) = paint("--json", "--samples", "2", "-o", "out/{stem}-{seed}.webp").answers
    assert answer["outputs"] == ["out/photo-5.webp", "out/photo-6.webp"]
    assert answer["seeds"] == [5, 6]
    assert (answer["width"], answer["height"]) == (128, 128)
    assert answer["settings"]["scheduler"] == "DDIM"
    assert set(answer["timings"]) == {"queue_s", "encode_s", "denoise_s", "decode_s"}
    for path in answer["outputs"]:
        with Image.open(path) as image:
            assert image.format == "WEBP"


def test_the_cli_and_python_paint_the_same(
    paint: Run, engine: Engine, request_for: Callable[..., InpaintRequest]
) -> None:
    """Try it on the command line, then build it into a program."""
    assert paint().code == 0
    ours = engine.paint(request_for(num_inference_steps=3, prompt="a red circle")).images[0]
    assert np.array_equal(pixels("photo_inpainted.png"), np.asarray(ours))


def test_several_pictures_one_model_load_and_exit_3_when_some_fail(paint: Run, photo: Image.Image) -> None:
    """A night's batch does not stop at its first broken file, and does not hide it either."""
    Path("broken.png").write_bytes(b"not a picture")
    photo.save("second.png")
    done = paint("second.png", "broken.png", "--json", "-o", "painted")
    assert done.code == 3
    assert {Path(o).name for a in done.answers if "outputs" in a for o in a["outputs"]} == {
        "photo.png",
        "second.png",
    }
    (failed,) = [answer for answer in done.answers if "error" in answer]
    assert failed["image"] == "broken.png"
    assert "1 of 3 pictures failed" in done.err
    assert done.err.count("loaded") == 1


def test_a_folder_of_masks_is_matched_by_name(paint: Run, grid_mask: Image.Image, photo: Image.Image) -> None:
    """Each photo has its own mask of the same name, whatever the format."""
    Path("masks").mkdir()
    grid_mask.save("masks/photo.webp", lossless=True)
    assert paint(mask="masks").code == 0
    photo.save("lonely.png")
    done = paint(image="lonely.png", mask="masks")
    assert done.code == 2
    assert "has no mask lonely.png for lonely.png" in done.err


def test_extend_needs_no_mask(inpaint: Run, checkpoint: Callable[[int], Path], photo: Image.Image) -> None:
    """Widening a picture is one flag."""
    photo.save("photo.png")
    done = inpaint("run", "photo.png", "-p", "sky", "--extend", "0,64,32,0", "--model", checkpoint(9), *QUICK)
    assert done.code == 0, done.err
    assert pixels("photo_inpainted.png").shape == (192, 160, 3)


def test_one_picture_is_painted_without_compiling(
    paint: Run, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be done before the code is ready, and share the interpreter with the compiler until then."""
    loads: list[tuple[str, ...]] = []
    load = Engine.load

    def noted(**options: Any) -> Engine:
        loads.append(options["without"])
        return load(**options)

    monkeypatch.setattr(Engine, "load", noted)
    assert paint("--without", "qkv").code == 0
    photo.save("second.png")
    assert paint("second.png", "-o", "painted").code == 0
    assert loads == [("qkv", "compile"), ()]


def test_dry_run_checks_and_paints_nothing(paint: Run) -> None:
    """See which box would be painted, in a second, before an hour's batch."""
    done = paint("--dry-run", "--model", "sdxl-inpainting")
    assert done.code == 0
    assert "would repaint the box" in done.err
    assert leftovers() == set()
    assert paint("--dry-run", image="missing.png").code == 2


def test_the_faintest_grey_that_counts_is_painted(paint: Run) -> None:
    """In a soft mask grey 8 is a little strength; 7 is refused, see below."""
    Image.new("L", (128, 128), 8).save("faint.png")
    assert paint("--soft", "--dry-run", mask="faint.png").code == 0


BAD_FLAGS = {
    "--scheduler Eular": r"--scheduler: unknown name 'Eular'; use one of DDIM, DPM Multi",
    "--steps 3 --strength 0.2": "--strength: 3 steps × strength 0.2",
    "--steps 0": "--steps: must be a whole number from 1 to 150, not 0",
    "--strength 0": "--strength: must be a number above 0, at most 1, not 0.0",
    "--samples 65": "--samples: must be",
    "--seed -2": "--seed: must be",
    "--area box": "--area: must be one of auto, whole",
    "--fill black": "--fill: must be one of original",
    "--extend 1,2,3": "--extend: must be pixels or percentages",
    "--extend 1,2,3,x": "--extend: must be pixels or percentages",
    "--guidance-interval 0.5": "--guidance-interval: must be two numbers A,B such as 0.2,0.8, not '0.5'",
    "--guidance-interval 0.8,0.2": "--guidance-interval: must be two rising fractions",
    "--pace fast": "--pace: must be one of exact, near, not 'fast'",
    "--mask missing.png": "--mask: ",
    "--mask small.png": "--mask: must have the picture's size 128×128, but is 64×64; with resize_mask",
    "--mask long.png --resize-mask": "--mask: must have the shape of the picture, which is 128×128,",
    "--mask black.png --mask-channel alpha": "--mask: nothing in it is transparent",
    "--mask white.png --invert-mask": "--mask: nothing to repaint",
    "--mask-channel red": "--mask-channel: must be one of luminance, alpha, not 'red'",
    "--mask black.png": "--mask: nothing to repaint",
    "--mask faint.png --soft": "--mask: nothing to repaint: paint the parts to change grey or white; in a "
    "soft mask greys from 8 up count",
    "--device cuda:77": "--device: cuda:77 was asked for",
    "--device gpu": "--device: must be auto, cpu, cuda or cuda:N, not 'gpu'",
    "--dtype int8": "--dtype: must be auto or one of",
    "--memory tiny": "--memory: must be auto or one of",
    "-o out.gif": "--output: must end with .png",
    "-o photo.png --overwrite": "--output: photo.png is an input",
    "-o mask.png --overwrite": "--output: mask.png is an input",
    "-o existing.png": "--output: existing.png exists already; add --overwrite",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_wrong_flag_gets_one_sentence_and_code_2(flags: str, paint: Run) -> None:
    """It names the field and what would be right; nothing is painted, nothing replaced."""
    Image.new("L", (64, 64), 255).save("small.png")
    Image.new("L", (128, 64), 255).save("long.png")
    Image.new("L", (128, 128), 255).save("white.png")
    Image.new("L", (128, 128)).save("black.png")
    Image.new("L", (128, 128), 7).save("faint.png")
    Path("existing.png").write_text("precious")
    before = leftovers()
    done = paint(*flags.split())
    (sentence,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert sentence.startswith(f"error: {BAD_FLAGS[flags]}")
    assert done.code == 2
    assert leftovers() == before
    assert Path("existing.png").read_text() == "precious"


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def bomb(path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "bomb": bomb,
    "not a picture": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a GIF": lambda path: Image.new("P", (64, 64)).save(path, "GIF"),
    "1×N": lambda path: Image.new("RGB", (1, 500)).save(path),
}


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("breakage", BROKEN)
def test_a_broken_picture_gets_one_sentence_and_code_2(breakage: str, field: str, paint: Run) -> None:
    """The tool answers any input file with a sentence and loses nothing."""
    file = "photo.png" if field == "image" else "mask.png"
    BROKEN[breakage](Path(file))
    done = paint()
    assert done.code == 2
    spelled = "image" if field == "image" else "--mask"
    assert [line.split(":")[:2] for line in done.err.splitlines()] == [["error", f" {spelled}"]]
    assert file in done.err, "of a folder of pictures, which one?"
    assert not Path("photo_inpainted.png").exists()


def test_a_model_that_is_not_there_names_the_command(paint: Run) -> None:
    """Code 4, and the way out."""
    done = paint("--model", "sdxl-inpainting")
    assert done.code == 4
    assert "inpaint models fetch sdxl-inpainting" in done.err
    done = paint("--model", "sdxl-inpaint")
    assert done.code == 4
    assert "sdxl-inpainting" in done.err, "the known names are listed"


def test_a_damaged_model_is_code_4(paint: Run, checkpoint: Callable[[int], Path]) -> None:
    """A disk that lost a block must not paint nonsense."""
    import shutil

    copy = Path(shutil.copytree(checkpoint(9), "model"))
    truncated(copy / "unet" / "diffusion_pytorch_model.safetensors")
    done = paint("--model", copy)
    assert done.code == 4
    assert not Path("photo_inpainted.png").exists()


def test_an_output_that_cannot_be_written_is_code_1(paint: Run) -> None:
    """Found out before the model is loaded, not after an hour."""
    Path("file").write_text("x")
    done = paint("-o", "file/out.png")
    assert done.code == 1
    assert "output: the folder file cannot be made" in done.err
    assert "loaded" not in done.err


def test_out_of_memory_is_code_5(paint: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can tell "buy a bigger card" from "mend your input"."""
    import torch

    import inpaint.runtime.step_loop

    def too_big(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(inpaint.runtime.step_loop, "step", too_big)
    done = paint()
    assert done.code == 5
    assert "not enough memory" in done.err


@pytest.mark.slow
def test_ctrl_c_is_code_130_and_leaves_nothing_behind(
    checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image, tmp_path: Path
) -> None:
    """A user who changes their mind gets the prompt back immediately, without a half-written file."""
    photo.save(tmp_path / "photo.png")
    grid_mask.save(tmp_path / "mask.png")
    arguments = [
        "photo.png",
        "--mask",
        "mask.png",
        "-p",
        "x",
        "--model",
        str(checkpoint(9)),
        "--steps",
        "150",
        "--samples",
        "64",
    ]
    command = [sys.executable, "-m", "inpaint", "run", *arguments]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background of a shell inherit a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        try:
            assert child.stderr is not None
            while not child.stderr.readline().startswith("loaded"):
                assert child.poll() is None, "the command ended before it painted"
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=100)
        finally:
            child.kill()
    assert child.returncode == 130
    assert err.strip().endswith("interrupted")
    assert {p.name for p in tmp_path.iterdir()} == {"photo.png", "mask.png"}


def test_a_usage_error_is_code_2_too(inpaint: Run) -> None:
    """The documented code, also where the option parser speaks."""
    assert inpaint("run", "photo.png", "--nonsense").code == 2
    assert inpaint("nonsense").code == 2


def test_no_mask_says_what_to_give(inpaint: Run, photo: Image.Image) -> None:
    """The first thing a newcomer forgets."""
    photo.save("photo.png")
    done = inpaint("run", "photo.png", "-p", "x")
    assert done.code == 2
    assert "give --mask PICTURE" in done.err


def test_schedulers_info_and_doctor(inpaint: Run) -> None:
    """The three commands that only look."""
    listed = inpaint("schedulers").out
    assert listed.startswith("DDIM")
    assert "also DPM++ 2M Karras" in listed
    assert len(inpaint("schedulers", "--json").answers) == len(SCHEDULERS)
    (facts,) = inpaint("info", PORTRAIT, "--json").answers
    assert (facts["format"], facts["width"], facts["height"]) == ("JPEG", 512, 512)
    assert "format" in inpaint("info", PORTRAIT).out
    assert inpaint("info", "missing.png").code == 2
    doctor = inpaint("doctor")
    assert doctor.code == 0
    assert "torch" in doctor.out
    assert set(inpaint("doctor", "--json").answers[0]) >= {"python", "libraries", "device", "models folder"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in fp16")
@pytest.mark.parametrize(
    ("units", "says"),
    [
        ("AMX", "bfloat16 for SDXL: this CPU multiplies in it (AMX)"),
        ("", "float32 for SDXL: this CPU has no"),
    ],
)
def test_doctor_says_which_dtype_a_cpu_takes_and_why(
    units: str, says: str, inpaint: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model on two machines takes 3 times as long on one of them; this is why."""
    for module in (cpu, load):
        monkeypatch.setattr(module, "bf16_units", lambda: units)
    assert says in inpaint("doctor").out


def test_the_hosted_apis_example_runs_on_a_real_photograph(
    inpaint: Run, checkpoint: Callable[[int], Path]
) -> None:
    """The parameters that the vendor documents, on a portrait: through the command line and Python alike."""
    settings = {
        "prompt": "A man with black sun glasses",
        "negative_prompt": "bad quality, painting, blur",
        "scheduler": "DDIM",
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "seed": 12467,
        "strength": 0.9,
    }
    flags = [
        part
        for name, value in settings.items()
        for part in (f"--{name.removeprefix('num_inference_').replace('_', '-')}", str(value))
    ]
    done = inpaint(
        "run", PORTRAIT, "--mask", EYES_MASK, *flags, "--model", checkpoint(9), "-o", "out.png", "--json"
    )
    assert done.code == 0, done.err
    request = InpaintRequest(image=Image.open(PORTRAIT), mask=Image.open(EYES_MASK), **settings)
    with Engine.load(checkpoint(9), device="cpu") as engine:
        result = engine.paint(request)
    painted, original = pixels("out.png"), pixels(PORTRAIT)
    assert np.array_equal(painted, np.asarray(result.images[0]))
    (canvas,) = cut(request, 128).canvases
    far = distance_to(pixels(EYES_MASK) > 0) > canvas.reach_px
    assert np.array_equal(painted[far], original[far])
    assert np.abs(painted.astype(int) - original)[~far].mean() > 5, "something was painted"


def pixels(path: Path | str) -> np.ndarray:
    """A picture file's pixels."""
    with Image.open(path) as image:
        return np.asarray(image)


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Pixels to the nearest set one."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~mask)


def test_help_is_there_for_every_command(inpaint: Run) -> None:
    """And explains itself without the README."""
    assert "Repaint part of a picture" in inpaint("--help").out
    for command in ("run", "schedulers", "info", "doctor"):
        done = inpaint(command, "--help")
        assert done.code == 0
        assert "Usage" in done.out
    assert inpaint("--version").out.startswith("inpaint 0.")


def test_a_bug_of_ours_is_a_sentence_too(paint: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a developer wants the traceback, and can ask for it."""
    import inpaint.cli.run.paint

    def bug(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(inpaint.cli.run.paint, "write_whole", bug)
    done = paint()
    assert done.code == 1
    assert "error: this is a bug in inpaint, please report it: ZeroDivisionError: oops" in done.err
    assert not Path("photo_inpainted.png").exists()
    monkeypatch.setenv("INPAINT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        inpaint.cli.main(["run", "photo.png", "--mask", "mask.png", "-p", "x", *QUICK])


def test_python_dash_m_is_the_command() -> None:
    """For a machine where the script is not on the PATH."""
    done = subprocess.run(
        [sys.executable, "-m", "inpaint", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.startswith("inpaint 0.")


def test_the_demo_says_what_it_paints(paint: Run) -> None:
    """A newcomer has no list at hand, and a word that is not in it paints something arbitrary."""
    said = paint("--model", "demo", "-p", "a giraffe").err
    assert "It paints a circle, a square," in said
    assert "the demo model does not know 'giraffe'; it paints a circle, a square," in said
    assert "giraffe" not in paint("--model", "demo", "-p", "a crown", "--overwrite").err
