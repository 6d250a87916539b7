"""The bench of samplers: its figures mean what they say, and a run that was cut off goes on."""

import json
from pathlib import Path

import pytest

from bench import samplers


def test_a_run_is_taken_up_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of the table compares pictures of the same seeds; a limit of minutes costs no figures."""
    monkeypatch.setattr(samplers, "FINE", 24)
    options = ["--device=cpu", "--scenes=1", "--steps=2,20", f"--json={tmp_path / 'kept.json'}"]
    samplers.main([*options, "--scheduler=DPM Multi Karras"])
    first = json.loads((tmp_path / "kept.json").read_text("utf-8"))["samplers"]
    found = first["DPM Multi Karras"]
    assert {steps: one["calls"] for steps, one in found.items()} == {"24": 21, "2": 1, "20": 18}
    coarse, fine = found["2"]["psnr_db"], found["20"]["psnr_db"]
    assert coarse["worst"] <= coarse["median"] < fine["median"]
    capsys.readouterr()
    samplers.main([*options, "--scheduler=DPM Multi Karras", "--scheduler=DPM Multi SDE"])
    out = capsys.readouterr().out
    figures = json.loads(out.splitlines()[-1])
    assert figures["samplers"]["DPM Multi Karras"] == found
    assert "  DPM Multi Karras" not in out, "it is not measured again"
    assert figures["samplers"]["DPM Multi SDE"]["20"]["psnr_db"] is None
