"""The bench of selections: it runs, and what it times selects the object."""

import json
from pathlib import Path

import pytest

from bench import selecting


@pytest.mark.slow
def test_it_times_snap_and_sam_on_a_small_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """SAM is the real network with random weights; the figures are one line of JSON, and a file."""
    kept = tmp_path / "select.json"
    selecting.main(["--device", "cpu", "--rounds", "1", "--width", "600", "--json", str(kept)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(kept.read_text("utf-8"))
    assert figures["side"] == [600, 400]
    snapped, sam = figures["ms"]["snap"], figures["ms"]["sam"]
    assert list(snapped) == ["point", "box", "stroke", "subject"]
    assert list(sam) == ["click", "corrected", "edge", "picture, once"]
    for ms in (*snapped.values(), *sam.values()):
        assert 0 < ms["least"] <= ms["wall"] <= ms["most"]
        assert ms["cpu"] > 0
    assert all(one["overlap"] > 0.9 for one in snapped.values())


def test_a_part_is_left_out_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Snap alone needs seconds."""
    selecting.main(["--device", "cpu", "--rounds", "1", "--width", "600", "--skip", "sam"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures["ms"]) == ["snap"]
