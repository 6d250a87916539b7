"""The measuring tools: what they write is what they say, and figures end in a line a program can read."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inpaint.errors import OutputError
from inpaint.model.load import Model, load_model
from tests.support.paths import ROOT
from tools.full_size import measure
from tools.full_size.make import build, expected_parameters, write_checkpoint, write_components


@pytest.mark.parametrize("in_channels", [9, 4])
def test_the_configs_are_those_of_the_real_checkpoint(in_channels: int) -> None:
    """A wrong config would still load and paint, and every measurement on it would be wrong."""
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in build(in_channels).items()}
    assert counts == {name: expected_parameters(name, in_channels) for name in counts}
    assert [round(count / 1e6, 2) for count in counts.values()] == [
        2567.48 if in_channels == 9 else 2567.46,
        83.65,
        123.06,
        694.66,
    ]


def test_what_is_written_loads(model: Model, tmp_path: Path) -> None:
    """The file format is written by hand, so the real loaders must agree with it: names, shapes, values."""
    text, text_2 = model.text_encoders
    parts = {"unet": model.unet, "vae": model.vae, "text_encoder": text, "text_encoder_2": text_2}
    write_components(tmp_path / "model", parts, torch.Generator().manual_seed(0))
    loaded = load_model(tmp_path / "model", "random", torch.device("cpu"), torch.float16)
    for module in (loaded.unet, loaded.vae, *loaded.text_encoders):
        for name, tensor in module.state_dict().items():
            assert tensor.isfinite().all(), name
            assert tensor.ndim == 1 or tensor.float().std() > 0, name
    for tokenizer in loaded.tokenizers:
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
        assert max(tokenizer("a man with black sun glasses, ü 東京!").input_ids) < 49408


def test_an_existing_folder_is_not_written_into(tmp_path: Path) -> None:
    """Seven gigabytes over a user's own checkpoint would be a bad surprise."""
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        write_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_small_disk_is_told_before_writing(tmp_path: Path) -> None:
    """It is refused immediately, not after a minute with the disk full."""
    with pytest.raises(OutputError, match=r"1\.0 GB free, but the checkpoint needs 7\.0 GB"):
        write_checkpoint(tmp_path / "new", free_bytes=10**9)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports resident and anonymous memory"
)
def test_loading_and_one_step_are_measured(
    checkpoint: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is run by hand a few times a year, so only a test notices when the engine has changed under it."""
    measure.main([str(checkpoint(9)), "--dtype", "bfloat16"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["seconds"].keys() == {"load", "prompts", "vae encode", "step"}
    assert 0 < figures["peak_anonymous_bytes"] <= figures["peak_bytes"]


@pytest.mark.slow
def test_the_bench_ends_in_one_json_line(checkpoint: Callable[[int], Path], tmp_path: Path) -> None:
    """A program that tracks speed reads the last line; also keeps the bench in step with the engine."""
    options = [
        "--rounds",
        "1",
        "--warmups",
        "0",
        "--scheduler",
        "DDIM",
        "--json",
        str(tmp_path / "kept.json"),
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "overhead.py", "--model", str(checkpoint(9)), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures == json.loads((tmp_path / "kept.json").read_text())
    (job,) = figures["jobs"]
    assert job["ms"].keys() == {"stock", "ours", "defaults"}
    assert 0 < job["over_stock"]["ours"]["median_paired"] < 10
