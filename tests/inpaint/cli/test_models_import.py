"""A user's own checkpoints through the command line: import, complete, merge, paint, remove."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from inpaint.cli import main
from inpaint.cli.models import app
from inpaint.demo import demo_checkpoint
from inpaint.errors import ModelError
from inpaint.weights import Entry, Lock, LockedFile, Source
from inpaint.weights.verify import sha256_of, walk
from tests.support.checkpoint_files import safetensors, sdxl_tensors
from tests.support.single_file import original_tensors, write_single_file

Run = Callable[..., tuple[int, str, str]]
SOURCE = Source("hf://owner/configs", "commit:" + "0" * 40)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def configs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configurations of the demo model's size, installed where SDXL's are looked for."""
    donor = demo_checkpoint().path
    folder = root / "sdxl-configs"
    for name, _ in walk(donor):
        if not name.endswith(".safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((donor / name).read_bytes())
    files = tuple(
        LockedFile(name, status.st_size, f"sha256:{sha256_of(folder / name)}")
        for name, status in walk(folder)
    )
    entry = Entry("sdxl-configs", "sdxl-configs", SOURCE, "x", "https://x", sum(f.size for f in files), files)
    monkeypatch.setattr("inpaint.weights.store.load_lock", lambda: Lock((entry,)))
    return folder


@pytest.fixture
def inpaint(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``inpaint ARGUMENTS`` in this process: exit code, stdout, stderr."""
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
        monkeypatch.setenv(switch, "")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def paint(
    inpaint: Run, tmp_path: Path, photo: Image.Image, grid_mask: Image.Image
) -> Callable[[str], np.ndarray]:
    """Paint one picture with the model of that name."""
    photo.save(tmp_path / "photo.png")
    grid_mask.save(tmp_path / "mask.png")

    def run(model: str) -> np.ndarray:
        output = tmp_path / f"{model}.png"
        quick = ("--steps", 8, "--scheduler", "DDIM", "--seed", 5, "-o", output)
        request = (tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "-p", "a red circle")
        code, _, err = inpaint("run", *request, "--model", model, *quick)
        assert code == 0, err
        with Image.open(output) as picture:
            return np.asarray(picture, dtype=int)

    return run


def test_a_downloaded_file_is_imported_under_its_own_name_and_paints(
    root: Path, configs: Path, inpaint: Run, paint: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """Two commands from a download to a picture, and it is the picture that the model paints elsewhere."""
    write_single_file(demo_checkpoint().path, tmp_path / "My Style (v2).safetensors")
    code, out, err = inpaint("models", "import", tmp_path / "My Style (v2).safetensors")
    assert (code, out) == (0, ""), err
    assert "my-style-v2 is imported into" in err
    assert "before the first picture" not in err
    assert np.abs(paint("my-style-v2") - paint("demo")).max() <= 2
    assert inpaint("models", "import", tmp_path / "My Style (v2).safetensors")[0] == 4


def test_an_import_without_the_configurations_names_the_command(root: Path, tmp_path: Path) -> None:
    """Better now than in an error before the first picture."""
    (tmp_path / "x.safetensors").write_bytes(safetensors(sdxl_tensors()))
    done = CliRunner().invoke(app, ["import", str(tmp_path / "x.safetensors")])
    assert done.exit_code == 0, done.output
    assert "before the first picture: sdxl-configs is not installed; run: inpaint models fetch" in done.stderr


def test_a_file_that_lacks_tensors_is_refused_before_it_is_copied(
    root: Path, configs: Path, inpaint: Run, tmp_path: Path
) -> None:
    """A pruned file that was pruned too far, or a smaller relative of SDXL."""
    tensors = original_tensors(demo_checkpoint().path)
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, tmp_path / "x.safetensors")
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors")
    assert code == 4
    assert err.endswith(
        "conv_out.bias: a damaged file, or a smaller relative of SDXL that does not work here\n"
    )
    assert len(err.splitlines()) == 1
    assert not (root / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "lacking", [("conditioner.embedders.0.",), ("conditioner.embedders.1.", "first_stage_model.")]
)
def test_what_a_file_lacks_comes_from_another_model(
    lacking: tuple[str, ...], root: Path, inpaint: Run, paint: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """Files without a VAE or text encoders are shared as well; the error names the way."""
    tensors = original_tensors(demo_checkpoint().path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(lacking)}
    save_file(kept, tmp_path / "x.safetensors")
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors")
    assert code == 4
    assert "import it with --parts-from" in err
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors", "--parts-from", "demo")
    assert code == 0, err
    assert "before the first picture" not in err, "it is a folder and needs nothing else"
    assert np.abs(paint("x") - paint("demo")).max() <= 2


def test_a_4_channel_unet_is_completed_by_an_inpainting_model(
    root: Path,
    checkpoint: Callable[[int], Path],
    inpaint: Run,
    paint: Callable[[str], np.ndarray],
    tmp_path: Path,
) -> None:
    """The configuration says how many channels the file has, not how many its donor had."""
    tensors = original_tensors(checkpoint(4))
    save_file(
        {name: t for name, t in tensors.items() if name.startswith("model.")}, tmp_path / "x.safetensors"
    )
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors", "--parts-from", checkpoint(9))
    assert code == 0, err
    assert json.loads((root / "x" / "unet" / "config.json").read_text())["in_channels"] == 4
    assert json.loads((root / "x" / "vae" / "config.json").read_text())["force_upcast"] is False
    paint("x")


def test_a_folder_is_not_completed_and_a_file_does_not_complete(
    root: Path, configs: Path, inpaint: Run, tmp_path: Path
) -> None:
    """The option says what it takes."""
    path = write_single_file(demo_checkpoint().path, tmp_path / "x.safetensors")
    code, _, err = inpaint("models", "import", demo_checkpoint().path, "--parts-from", "demo")
    assert (code, "--parts-from completes a single" in err) == (4, True)
    code, _, err = inpaint("models", "import", path, "--parts-from", path)
    assert (code, "--parts-from needs a diffusers folder" in err) == (4, True)


def test_a_donor_of_another_size_is_refused(
    root: Path, checkpoint: Callable[[int], Path], inpaint: Run, tmp_path: Path
) -> None:
    """Parts that do not fit are found before they are copied, not by the loader."""
    tensors = original_tensors(checkpoint(4))
    save_file(
        {name: t for name, t in tensors.items() if name.startswith("model.")}, tmp_path / "x.safetensors"
    )
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors", "--parts-from", "demo")
    assert (code, "tensors of SDXL's unet" in err, len(err.splitlines())) == (4, True, 1), err
    assert not (root / "x").exists()


def test_a_style_is_merged_listed_painted_and_removed(
    root: Path, configs: Path, inpaint: Run, paint: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """The whole way, with a model that can paint: a small change of style changes its picture a little."""
    tensors = {name: tensor.float() for name, tensor in original_tensors(demo_checkpoint().path).items()}
    key = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[key] = tensors[key][:, :4].clone()
    save_file(tensors, tmp_path / "base.safetensors")
    moved = {name: t * 1.01 if name.startswith("model.") else t for name, t in tensors.items()}
    save_file(
        {name: t for name, t in moved.items() if name.startswith("model.")}, tmp_path / "Oil.safetensors"
    )
    merge = ("models", "merge", "demo", tmp_path / "Oil.safetensors", "--base", tmp_path / "base.safetensors")
    code, out, err = inpaint(*merge)
    assert (code, out) == (0, ""), err
    assert "merging unet/diffusion_pytorch_model.safetensors" in err
    assert "has no text_encoder, so that of demo is kept" in err
    assert "oil-inpainting is in" in err
    assert '"oil-inpainting"' in inpaint("models", "list", "--json")[1]
    assert inpaint("models", "verify", "oil-inpainting", "--deep")[0] == 0
    change = np.abs(paint("oil-inpainting") - paint("demo"))
    assert 0.05 < change.mean() < 20
    merged = load_file(root / "oil-inpainting" / "unet" / "diffusion_pytorch_model.safetensors")
    own = load_file(demo_checkpoint().path / "unet" / "diffusion_pytorch_model.safetensors")
    assert merged["conv_out.bias"].dtype == own["conv_out.bias"].dtype
    code, _, err = inpaint("models", "rm", "oil-inpainting")
    assert (code, "oil-inpainting is removed; this freed 0.02 GB" in err) == (0, True), err
    assert not (root / "oil-inpainting").exists()


def test_a_merge_without_its_base_names_the_command(root: Path, tmp_path: Path) -> None:
    """Most styles were tuned from SDXL itself, which is what --base is when it is not given."""
    path = write_single_file(demo_checkpoint().path, tmp_path / "x.safetensors")
    done = CliRunner().invoke(app, ["merge", "demo", str(path)])
    assert isinstance(done.exception, ModelError)
    assert str(done.exception) == "sdxl-base is not installed; run: inpaint models fetch sdxl-base"


def test_a_merge_takes_whole_words_only(root: Path, inpaint: Run) -> None:
    """A typo in a choice or a number is a usage error that lists what would do."""
    code, _, err = inpaint("models", "merge", "demo", "x", "--vae", "mine")
    assert (code, "'mine' is not one of 'inpaint'" in err) == (2, True), err
    assert inpaint("models", "merge", "demo", "x", "--alpha", "much")[0] == 2
    code, _, err = inpaint("models", "merge", "demo", "x")
    assert (code, "there is no model 'x'" in err) == (4, True)


@pytest.mark.parametrize("command", ["remove", "rm"])
def test_only_models_are_removed(command: str, root: Path, inpaint: Run, tmp_path: Path) -> None:
    """The command takes names and never deletes a path."""
    (root / "photos").mkdir(parents=True)
    for name, words in (
        ("demo", "comes with inpaint"),
        ("photos", "not put there by inpaint"),
        ("x", "no model"),
    ):
        code, _, err = inpaint("models", command, name)
        assert (code, words in err, len(err.splitlines())) == (4, True, 1), err
    assert [path.name for path in root.iterdir()] == ["photos"]


def test_what_a_model_predicts_is_said_once(
    root: Path, configs: Path, inpaint: Run, paint: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """The import of an unmarked file is told, and run needs no flag; or run is told, without an import."""
    path = write_single_file(demo_checkpoint().path, tmp_path / "x.safetensors")
    code, _, err = inpaint("models", "import", path, "--predicts", "v-zsnr")
    assert code == 0, err
    assert "it predicts v (velocity), with zero terminal SNR\n" in err
    stored = json.loads((root / "x" / "scheduler_config.json").read_text())
    assert stored == {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "_inpaint_import": True,
    }
    as_v = paint("x")
    assert np.abs(as_v - paint("demo")).mean() > 5
    request = (tmp_path / "photo.png", "--mask", tmp_path / "mask.png", "-p", "a red circle", "--model", path)
    quick = ("--steps", 8, "--scheduler", "DDIM", "--seed", 5, "-o", tmp_path / "told.png")
    code, _, err = inpaint("run", *request, *quick, "--predicts", "v-zsnr")
    assert code == 0, err
    assert "; it predicts v (velocity), with zero terminal SNR\n" in err
    with Image.open(tmp_path / "told.png") as picture:
        assert (np.asarray(picture, dtype=int) == as_v).all()
    code, _, err = inpaint("run", *request, *quick, "--predicts", "velocity", "--overwrite")
    assert code != 0
    assert "must be one of epsilon, v, v-zsnr, not 'velocity'" in err


def test_a_file_marked_for_zero_snr_alone_names_both_ways_out(
    root: Path, configs: Path, inpaint: Run, tmp_path: Path
) -> None:
    """Neither is guessed: the two paint different pictures."""
    tensors = {**original_tensors(demo_checkpoint().path), "ztsnr": torch.zeros(0)}
    save_file(tensors, tmp_path / "x.safetensors")
    code, _, err = inpaint("models", "import", tmp_path / "x.safetensors")
    assert (code, len(err.splitlines())) == (4, 1), err
    assert "say --predicts v, or --predicts epsilon to paint it without zero terminal SNR" in err
    for told in ("v", "epsilon"):
        code, _, err = inpaint(
            "models", "import", tmp_path / "x.safetensors", "--name", told, "--predicts", told
        )
        assert code == 0, err
