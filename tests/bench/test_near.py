"""The bench of pace near: it runs, and near pictures are as near as the documentation says."""

import json
from pathlib import Path

import pytest

from bench import near


@pytest.mark.slow
def test_a_near_picture_is_nearly_the_exact_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Who saves half the work must get the same picture to the eye: another seed's is 19 dB away."""
    kept = tmp_path / "near.json"
    names = ["DPM2 Karras", "Euler a"]
    near.main(
        [
            *("--device", "cpu", "--scenes", "8", "--rounds", "1", "--json", str(kept)),
            *(f"--scheduler={name}" for name in names),
        ]
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(kept.read_text("utf-8"))
    assert figures["demo"]["default"]["calls"] == [23, 43]
    assert figures["demo"]["default"]["work"]["near"] == pytest.approx(23 / 43, abs=1e-4)
    assert figures["demo"]["default"]["work"]["near, cached"] < 0.5 < figures["demo"]["cached_call_share"]
    assert figures["demo"]["default"]["over_exact"]["near, cached"]["median_paired"] > 0
    found = figures["quality"]["DPM2 Karras"]
    for way, cached in (("near", 0), ("near, cached", 10)):
        assert found[way]["psnr_db"]["median"] > 44
        assert found[way]["psnr_db"]["worst"] > 27  # 29 in one scene of 96; the median of those is 53
        assert found[way]["calls"] == [23, 43, cached]
        assert found[way]["unlike_verdicts"] == 0
    noisy = figures["quality"]["Euler a"]
    assert "adds noise" in noisy["near"]["left_out"]
    assert noisy["near, cached"]["psnr_db"]["worst"] > 33
