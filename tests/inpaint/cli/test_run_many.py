"""A folder of pictures: what a failure leaves, what --resume does again, what the report says."""

import errno
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from inpaint import Engine
from inpaint.cli.run.progress import Progress
from tests.support.cli_runs import QUICK, Done, Run

pytest_plugins = ["tests.support.cli_fixtures"]

BREAKAGE = b"\xff\xd8 not a JPEG"


@pytest.fixture
def batch(inpaint: Run, checkpoint: Callable[[int], Path]) -> Run:
    """``inpaint run pictures -p … --report report.jsonl ARGUMENTS`` on the tiny model; later flags win."""

    def run(*arguments: object, images: object = "pictures", report: object = "report.jsonl") -> Done:
        base = [images, "-p", "a red circle", "--model", checkpoint(9), *QUICK, "--report", report]
        return inpaint("run", *base, *arguments)

    return run


def make_pictures(photo: Image.Image, mask: Image.Image, count: int, folder: str = "pictures") -> list[Path]:
    """Write this many different pictures, JPEG and PNG in turn, each with its ``NAME_mask.png``."""
    paths = []
    for n in range(count):
        path = Path(folder) / f"{n:02}{('.jpg', '.png')[n % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(np.asarray(photo), 5 * n, axis=1)).save(path)
        mask.save(path.with_name(f"{path.stem}_mask.png"))
        paths.append(path)
    return paths


def lines(path: str = "report.jsonl") -> list[dict[str, Any]]:
    """The lines of a report."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def states(done: list[dict[str, Any]]) -> list[str]:
    return [line["state"] for line in done]


def results() -> dict[str, tuple[bytes, int]]:
    """Every painted file, with its bytes and when it was written."""
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in Path().rglob("*_inpainted*")}


@pytest.mark.slow
def test_a_batch_of_20_with_a_broken_file_and_a_missing_mask(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """The night paints 18 and says which two it could not; the morning mends those and repaints nothing."""
    paths = make_pictures(photo, grid_mask, 20)
    broken, whole = paths[4], paths[4].read_bytes()
    broken.write_bytes(BREAKAGE)
    lost = paths[11].with_name(f"{paths[11].stem}_mask.png")
    lost.unlink()

    night = batch()
    assert night.code == 3
    assert "2 of 20 pictures failed" in night.err
    assert [line["image"] for line in lines()] == list(map(str, paths)), "in the order of the inputs"
    failed = {line["image"]: line["error"] for line in lines() if line["state"] == "failed"}
    assert list(failed) == [str(broken), str(paths[11])]
    assert "is not a picture in a format that is read" in failed[str(broken)]
    assert "put 11_mask.png next to the picture" in failed[str(paths[11])]
    before = results()
    assert len(before) == 18

    broken.write_bytes(whole)
    grid_mask.save(lost)
    morning = batch("--resume")
    assert morning.code == 0, morning.err
    assert "2 painted, 18 painted already, of 20 pictures" in morning.err
    after = results()
    assert {path: after[path] for path in before} == before, "not even their times changed"
    assert set(after) - set(before) == {"pictures/04_inpainted.jpg", "pictures/11_inpainted.png"}
    assert [line["image"] for line in lines()[20:]] == list(failed), "the report repeats none of its lines"
    assert states(lines()[20:]) == ["done", "done"]

    assert batch("--resume").code == 0
    assert "loaded" not in batch("--resume").err, "nothing to paint, no model to wait for"
    assert results() == after


def test_report_lines_say_what_there_is_to_know(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """For the script that goes through them."""
    make_pictures(photo, grid_mask, 1)
    assert batch("--samples", "2").code == 0
    (line,) = lines()
    assert line["image"] == "pictures/00.jpg"
    assert line["mask"] == "pictures/00_mask.png"
    assert line["outputs"] == ["pictures/00_inpainted_1.jpg", "pictures/00_inpainted_2.jpg"]
    assert line["seeds"] == [5, 6]
    assert line["state"] == "done"
    assert line["seconds"] > 0


def test_jpeg_stays_jpeg_upright_and_in_its_colours(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """A folder of photographs stays one: no 5 GB of JPEG turned into 35 GB of PNG, no profile lost."""
    Path("pictures").mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera Maker"  # held upright, stored on its side
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    on_its_side = photo.transpose(Image.Transpose.ROTATE_90)
    on_its_side.save("pictures/a.jpg", quality=95, exif=exif, icc_profile=profile, dpi=(300, 300))
    grid_mask.save("pictures/a_mask.png")
    assert batch().code == 0
    with Image.open("pictures/a.jpg") as before, Image.open("pictures/a_inpainted.jpg") as painted:
        assert painted.format == "JPEG"
        assert painted.info["icc_profile"] == profile
        assert painted.info["dpi"] == (300, 300)
        assert painted.getexif()[0x010F] == "Camera Maker"
        assert 0x0112 not in painted.getexif(), "it is upright, so no program may turn it again"
        untouched = (
            np.asarray(painted)[:16].astype(int)
            - np.asarray(before.transpose(Image.Transpose.ROTATE_270))[:16]
        )
    assert np.abs(untouched).mean() < 2, "turned the right way, but for JPEG's own loss"


CHANGES: dict[str, Callable[[Path], list[object]]] = {
    "another prompt": lambda _: ["-p", "a blue star"],
    "another seed": lambda _: ["--seed", "6"],
    "another mask": lambda _: (Image.new("L", (128, 128), 255).save("pictures/00_mask.png"), [])[1],
    "another picture": lambda _: (Image.new("RGB", (128, 128), "red").save("pictures/00.jpg"), [])[1],
    "another model": lambda other: ["--model", other],
    "another way": lambda _: ["--extend", "0,0,64,0", "--mask", "pictures/00_mask.png"],
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_resume_neither_keeps_nor_loses_what_was_painted_otherwise(
    change: str, batch: Run, checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image
) -> None:
    """It is not what was asked for, so it is not skipped; it may be precious, so --overwrite must be said."""
    make_pictures(photo, grid_mask, 1)
    assert batch().code == 0
    before = results()
    flags = CHANGES[change](checkpoint(4))
    refused = batch("--resume", *flags)
    assert refused.code == 3
    assert "pictures/00_inpainted.jpg exists already; add --overwrite" in refused.err
    assert results() == before
    assert batch("--resume", "--overwrite", *flags).code == 0
    assert results() != before
    again = results()
    assert batch("--resume", *flags).code == 0
    assert results() == again


@pytest.mark.slow
def test_resume_takes_any_seed_where_none_was_asked_for(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """Whatever the names hold; and samples that are missing go on with the seed that the others have."""
    make_pictures(photo, grid_mask, 2)
    for template in ("pictures/{stem}_inpainted.png", "pictures/{stem}_inpainted_{seed}.png"):
        flags = ["--seed", "-1", "--samples", "3", "-o", template, "--resume"]
        assert batch(*flags).code == 0
        before = results()
        assert len(before) == 6
        assert batch(*flags).code == 0
        assert results() == before
        lost = sorted(before)[2]
        Path(lost).unlink()
        assert batch(*flags).code == 0
        after = results()
        assert after[lost][0] == before[lost][0], "the very same picture"
        del after[lost], before[lost]
        assert after == before, "and the others were not touched"
        for path in results():
            Path(path).unlink()


def test_resume_goes_by_the_report_where_pictures_say_nothing(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """With --no-metadata; and what took a result's place since is not mistaken for it."""
    make_pictures(photo, grid_mask, 2)
    assert batch("--no-metadata").code == 0
    before = results()
    assert not any(
        b"a red circle" in data or "a red circle".encode("utf-16-be") in data for data, _ in before.values()
    )
    assert batch("--no-metadata", "--resume").code == 0
    assert results() == before
    Path("pictures/00_inpainted.jpg").write_bytes(Path("pictures/00.jpg").read_bytes())
    done = batch("--no-metadata", "--resume")
    assert done.code == 3
    assert "pictures/00_inpainted.jpg exists already" in done.err


def test_a_full_disk_costs_no_earlier_result(
    batch: Run, photo: Image.Image, grid_mask: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file stays whole, nothing half-written lies about, and the next picture is tried."""
    make_pictures(photo, grid_mask, 2)
    assert batch().code == 0
    before = results()
    full = [True, False]

    def sync(_: int) -> None:
        if full.pop(0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    done = batch("--overwrite", "--seed", "8")
    assert done.code == 3
    assert "00_inpainted.jpg could not be written: No space left on device" in done.err
    after = results()
    assert after["pictures/00_inpainted.jpg"] == before["pictures/00_inpainted.jpg"]
    assert after["pictures/01_inpainted.png"] != before["pictures/01_inpainted.png"]
    assert not list(Path("pictures").glob(".*"))


def test_a_name_that_is_no_text_is_reported_like_any_other(
    batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """Files from an old disk, whose names are not UTF-8; and resuming finds them again."""
    make_pictures(photo, grid_mask, 1)
    name = os.fsdecode(b"caf\xe9")
    Path("pictures/00.jpg").rename(f"pictures/{name}.jpg")
    Path("pictures/00_mask.png").rename(f"pictures/{name}_mask.png")
    assert batch("--no-metadata", "--json").answers[0]["image"] == f"pictures/{name}.jpg"
    assert lines()[0]["outputs"] == [f"pictures/{name}_inpainted.jpg"]
    assert batch("--no-metadata", "--resume").code == 0
    assert states(lines()) == ["done"], "it was found again, so nothing is new"


def test_fail_fast_stops_at_the_first_failure(batch: Run, photo: Image.Image, grid_mask: Image.Image) -> None:
    """A user can look before the rest of the night is spent; pictures painted before are kept."""
    paths = make_pictures(photo, grid_mask, 8)
    paths[2].write_bytes(BREAKAGE)
    done = batch("--fail-fast")
    assert done.code == 3
    assert states(lines()) == ["done", "done", "failed"]
    assert "2 painted, 5 not finished, of 8 pictures" in done.err
    assert len(results()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "pictures", "most"), [(1, 8, 4), (5, 3, 2)])
def test_few_pictures_are_under_way_at_a_time_and_they_share_calls(
    samples: int,
    pictures: int,
    most: int,
    batch: Run,
    photo: Image.Image,
    grid_mask: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPU is kept busy, and a folder of ten thousand does not wait in memory."""
    jobs: list[Any] = []
    under_way: list[int] = []
    engines: set[Engine] = set()
    submit, close = Engine.submit, Engine.close

    def counted(engine: Engine, request: Any, **how: Any) -> Any:
        jobs.append(submit(engine, request, **how))
        under_way.append(sum(not job.finished for job in jobs))
        engines.add(engine)
        return jobs[-1]

    calls: list[int] = []
    monkeypatch.setattr(Engine, "submit", counted)
    monkeypatch.setattr(
        Engine, "close", lambda engine: (calls.append(engine.stats().unet_calls), close(engine))[1]
    )
    make_pictures(photo, grid_mask, pictures)
    assert batch("--steps", "12", "--samples", samples).code == 0
    assert len(engines) == 1, "the model is loaded once"
    assert 2 <= max(under_way) <= most
    steps = pictures * samples * int(12 * 0.9)
    assert calls[0] < 0.7 * steps, "one call a row and step would be no sharing"


SAME = ["-p", "x", "--steps", "24"]  # of a batch in a process of its own, for one that goes on with it here


def command(checkpoint: Path) -> list[str]:
    flags = ["--model", str(checkpoint), *QUICK, "--report", "report.jsonl", *SAME]
    return [sys.executable, "-m", "inpaint", "run", "pictures", *flags]


MANY = 16  # enough that some are left when the test ends the command, on a busy machine too


def start(checkpoint: Path) -> subprocess.Popen[str]:
    """A batch in a process of its own, in the working folder."""
    return subprocess.Popen(
        command(checkpoint),
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background of a shell inherit a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_results(child: subprocess.Popen[str], count: int) -> None:
    """Wait until this many pictures are reported."""
    assert child.stderr is not None
    while count:
        line = child.stderr.readline()
        assert line, "the command ended too early"
        count -= "(seed " in line


@pytest.mark.slow
@pytest.mark.gate
def test_sigkill_leaves_whole_pictures_and_resume_finishes(
    batch: Run, checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image
) -> None:
    """The power went at three in the morning."""
    paths = make_pictures(photo, grid_mask, MANY)
    with start(checkpoint(9)) as child:
        try:
            wait_for_results(child, 1)
        finally:
            child.kill()
    before = results()
    assert 1 <= len(before) < MANY
    for path in before:
        with Image.open(path) as image:
            image.load()
    done_lines = [line for line in lines() if line["state"] == "done"]
    assert {out for line in done_lines for out in line["outputs"]} <= set(before), "the report is true"
    with Path("report.jsonl").open("a") as file:
        file.write('{"task": "pictures/0')  # killed while it wrote
    finished = batch(*SAME, "--resume")
    assert finished.code == 0, finished.err
    after = results()
    assert len(after) == len(paths)
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
def test_ctrl_c_is_code_130_and_says_what_was_done(
    batch: Run, checkpoint: Callable[[int], Path], photo: Image.Image, grid_mask: Image.Image
) -> None:
    """A user who needs the GPU now gets it, and learns how to continue later."""
    make_pictures(photo, grid_mask, MANY)
    with start(checkpoint(9)) as child:
        try:
            wait_for_results(child, 1)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=120)
        finally:
            child.kill()
    assert child.returncode == 130
    assert f"not finished, of {MANY} pictures" in err
    assert "the same command with --resume paints what is missing" in err
    assert err.strip().endswith("interrupted")
    assert {out for line in lines() for out in line["outputs"]} <= set(results()), "the report is true"
    assert "pictures/00_inpainted.jpg" in lines()[0]["outputs"], "what was said to be done is in it"
    assert not list(Path("pictures").glob(".*")), "nothing half-written"


def test_dry_run_imports_no_torch(
    photo: Image.Image, grid_mask: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking a thousand pictures takes seconds, also where there is no GPU."""
    monkeypatch.chdir(tmp_path)
    make_pictures(photo, grid_mask, 2)
    code = (
        "import sys; from inpaint.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code, ended\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    flags = ["pictures", "-p", "x", "--dry-run", "--resume", "--report", "r.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr.count("would repaint the box") == 2
    assert "2 to be painted, of 2 pictures" in done.stderr
    assert not Path("r.jsonl").exists()


BAD_REPORTS = {
    "pictures/00.jpg": "pictures/00.jpg is not the report of an earlier run (line 1)",
    "notes.txt": "notes.txt is not the report of an earlier run (line 1)",
    "earlier.jsonl": "earlier.jsonl exists already; add --resume or --overwrite",
}


@pytest.mark.parametrize("report", BAD_REPORTS)
def test_a_report_replaces_nothing_but_a_report(
    report: str, batch: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """A slip of the hand must not cost a file, --overwrite or not."""
    make_pictures(photo, grid_mask, 1)
    Path("notes.txt").write_text("precious\nnotes\n")
    Path("earlier.jsonl").write_text(json.dumps({"state": "failed", "image": "x"}) + "\n")
    before = Path(report).read_bytes()
    flags = [] if report == "earlier.jsonl" else ["--overwrite"]
    done = batch(*flags, report=report)
    assert done.code == 2
    assert f"error: --report: {BAD_REPORTS[report]}" in done.err
    assert Path(report).read_bytes() == before
    assert results() == {}


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_pictures_and_stdout_stays_a_programs(
    checkpoint: Callable[[int], Path],
    photo: Image.Image,
    grid_mask: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Progress for the person who waits, JSON alone for the pipe."""
    monkeypatch.chdir(tmp_path)
    make_pictures(photo, grid_mask, 3)
    terminal, its_end = pty.openpty()
    shown = io.BytesIO()
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        child = subprocess.Popen(
            [*command(checkpoint(9)), "--json"],
            stdout=subprocess.PIPE,
            stderr=its_end,
            text=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(its_end)
        reader = threading.Thread(target=_copy, args=(screen, shown))
        reader.start()
        try:
            out, _ = child.communicate(timeout=120)
        finally:
            child.kill()
        reader.join(30)
    assert child.returncode == 0
    assert [json.loads(line)["image"] for line in out.splitlines()] == [
        f"pictures/0{n}" + (".jpg", ".png")[n % 2] for n in range(3)
    ]
    text = shown.getvalue().decode()
    assert "of 3" in text
    assert "step 1 of 21" in text
    assert '"image"' not in text
    assert "\n[1 of 3" in text.replace("\x1b[2K", "").replace("\r", "\n"), "notes have lines of their own"


def _copy(source: io.RawIOBase, target: io.BytesIO) -> None:
    while True:
        try:
            data = source.read(65_536)
        except OSError:  # how a terminal reports that no process writes to it any more
            return
        if not data:
            return
        target.write(data)


def test_time_left_counts_painted_pictures_alone() -> None:
    """A thousand that were painted already take no time, and say nothing about those that do."""
    now = [100.0]
    progress = Progress(1010, None, clock=lambda: now[0])
    for n in range(1000):
        progress.ended(f"old {n}", painted=False)
    assert str(progress) == "1000 of 1010"
    progress.began("a")
    now[0] += 60
    progress.stepped("a", 5, 10)
    assert progress.left_s() == pytest.approx(60 / 0.5 * 9.5)
    now[0] += 60
    progress.ended("a", painted=True)
    assert progress.left_s() == pytest.approx(120 * 9)
    assert str(progress) == "1001 of 1010, 18 min left"
