"""The bench of lossy ways: it runs, its figures mean what they say, and fp8 is as near as is claimed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import lossy


@pytest.mark.slow
def test_it_ends_in_one_line_of_json_and_fp8_is_near(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With fp8 a user gets the same picture as without it, to the eye, and not another one."""
    kept = tmp_path / "lossy.json"
    ways = ["fp8", "another seed", "guidance 0.2 to 0.8", "tiled decode"]
    lossy.main(
        ["--device", "cpu", "--scenes", "1", "--json", str(kept), *(f"--only={name}" for name in ways)]
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(kept.read_text("utf-8"))
    assert (figures["bench"], figures["scenes"], list(figures["ways"])) == ("lossy", 1, ["exact", *ways])
    assert "few-step LoRA" in figures["missing"]
    fp8, seed, narrow, tiled = (figures["ways"][name] for name in ways)
    assert fp8["psnr_db"]["worst"] > 30
    assert 0 < fp8["latent_error"]["worst"] < 0.1 < seed["latent_error"]["median"]
    assert narrow["slots"] == pytest.approx((22 + 13) / 44, abs=1e-3), "13 of the 22 steps are guided"
    assert tiled["latent_error"]["worst"] == 0
    assert tiled["psnr_db"]["worst"] < 120, "and yet its pictures differ"


def test_psnr_looks_inside_the_mask_only() -> None:
    """Outside it every way returns the caller's own pixels, which would flatter it."""
    black, grey = np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 3), np.float32)
    grey[:2] = 0.1
    grey[2:] = 0.9
    mask = Image.new("L", (4, 4))
    mask.paste(255, (0, 0, 4, 2))
    assert lossy.psnr(black, grey, mask) == pytest.approx(20)
    assert lossy.psnr(black, black, mask) == 120
