"""The benches of the engine: each runs on a tiny model and ends in one JSON line that a program can read."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import coldstart, dtypes, full_size, latency, memory, plots, threads, throughput
from bench.lib import device
from bench.lib.contenders import Timing, interleave, open_each
from bench.lib.jobs import Upload, job, mixed
from bench.lib.ours import Mode, Ours, engine_on, load
from bench.lib.stock import Stock
from inpaint.errors import PaintError, RequestError
from inpaint.model.load import Model
from tests.support.tiny_checkpoint import NATIVE_SIZE

CPU = torch.device("cpu")
# Compiling is tested where it is done; here it would only take its time.
UNCOMPILED = ["--without", "compile", "graphs"]


@pytest.fixture
def ours(checkpoint: Callable[[int], Path]) -> Iterator[Ours]:
    """An engine on a model of its own, whose modules may be rewritten."""
    asked = Mode(without=frozenset({"compile", "graphs"}))
    with engine_on(load(str(checkpoint(9)), CPU), asked) as ours:
        yield ours


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return figures


def test_contenders_take_turns_at_going_first() -> None:
    """Going first costs a contender cold caches; always the same one first, and the ratios would be false."""
    order: list[str] = []
    contenders = {name: lambda _, name=name: order.append(name) for name in "abc"}
    timings = interleave(contenders, lambda i, place: None, warmups=1, rounds=3)
    assert ["".join(order[i : i + 3]) for i in range(0, 12, 3)] == ["cab", "abc", "bca", "cab"]
    assert {name: len(timing.rounds) for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_making_a_job_is_not_timed() -> None:
    """A fresh prompt and a new row each time cost the bench, not the contender."""
    began: list[float] = []

    def make(i: int, place: int) -> None:
        began.append(time.perf_counter())
        sum(range(300_000))

    ended: list[float] = []
    timing = interleave({"a": lambda _: ended.append(time.perf_counter())}, make, warmups=0, rounds=1)["a"]
    assert timing.rounds[0] < (ended[0] - began[0]) / 2


def test_a_slow_stretch_does_not_move_the_paired_ratio() -> None:
    """On a shared machine one round in three may be ten times as slow, for all contenders."""
    stock, ours = Timing((1.0, 10.0, 10.0)), Timing((0.5, 0.5, 5.0))
    assert ours.over(stock) == {"of_medians": 0.05, "median_paired": 0.5}
    assert ours.to_json() == {"median": 500.0, "min": 500.0, "max": 5000.0}


def test_the_stock_contender_paints_what_ours_paints(model: Model, ours: Ours) -> None:
    """A ratio of two programs that do different work says nothing."""
    request, stock = job(NATIVE_SIZE, "DDIM", num_inference_steps=3), Stock(model)
    upload = Upload.of(request.image, request.mask, {"prompt": "x", "seed": 1, "num_inference_steps": 2})
    assert ours.paint_upload(upload)[:2] == stock.paint_upload(upload)[:2] == b"\xff\xd8"  # JPEG
    painted = ours.engine.paint(request).images[0]
    assert latency.distance(painted, stock.paint(request), request.mask)["levels"] <= 1


def test_stages_add_up_to_the_whole(model: Model, ours: Ours) -> None:
    """A reader of the figures adds the stages up."""
    request = job(NATIVE_SIZE, "DDIM", num_inference_steps=6)
    for contender in (Stock(model).stages, ours.stages):
        started = time.perf_counter()
        found = contender(request)
        whole = 1000 * (time.perf_counter() - started)
        assert {"encode", "denoise", "decode"} <= found.keys()
        assert all(ms > 0 for name, ms in found.items() if name != "encode"), found
        assert 0.5 * whole < sum(found.values()) <= whole


def test_four_callers_differ_in_all_that_a_batch_may_mix() -> None:
    """The workload called mixed must not be four alike requests."""
    requests = mixed(NATIVE_SIZE, 4, 0)
    for field in ("scheduler", "num_inference_steps", "guidance_scale", "prompt", "seed"):
        assert len({getattr(request, field) for request in requests}) == 4, field


@pytest.mark.slow
def test_latency_ends_in_one_json_line(
    checkpoint: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that tracks speed reads the last line, or the file."""
    kept = tmp_path / "results" / "latency.json"
    quick = ["--rounds", "1", "--warmups", "0", "--device", "cpu", "--recipe", "eager", "--json", str(kept)]
    latency.main(
        [
            *quick,
            *UNCOMPILED,
            "--model",
            str(checkpoint(9)),
            "--contenders",
            "A,B,C,D,E",
            "--optimizations",
            "--steps",
            "4",
        ]
    )
    figures = last_line(capsys)
    assert figures == json.loads(kept.read_text())
    assert {"A", "B", "C", "E"} <= figures["contenders"].keys() | figures["left_out"].keys()
    assert figures["contenders"]["C"]["over"]["A"]["median_paired"] > 0
    assert figures["contenders"]["C"]["from_A"]["levels"] <= 8  # both through JPEG
    assert figures["rates"]["tflop"] > 0
    assert figures["optimizations"].keys() == {optimization.name for optimization in latency.OPTIMIZATIONS}


def test_ours_is_asked_for_levers_by_name(ours: Ours, model: Model) -> None:
    """An optimization misspelt and left in would be measured as worth nothing."""
    assert ours.fast.optimizations
    assert not {"compile", "graphs", "fp8"} & set(ours.fast.optimizations)
    with pytest.raises(RequestError, match="qvk"), engine_on(model, Mode(without=frozenset({"qvk"}))):
        pass


def test_a_contender_that_cannot_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A contender missing without a word would read as one that was measured and forgotten."""

    @contextmanager
    def opened(letter: str) -> Iterator[str]:
        if letter == "D":
            raise RequestError("precision", "fp8 is not possible here")
        yield letter.lower()

    with ExitStack() as stack:
        contenders, missing = open_each(stack, "AD", opened)
        assert contenders == {"A": "a"}
        assert missing == {"D": "precision: fp8 is not possible here"}
        assert "D: left out, precision: fp8 is not possible here" in capsys.readouterr().out
        with pytest.raises(RequestError, match="none of them can run here"):
            open_each(stack, "D", opened)


@pytest.mark.parametrize("bench", [latency, throughput, coldstart])
def test_an_unknown_contender_is_refused(bench: Any) -> None:
    """An hour's run without the contender that was meant is an hour lost to a typing mistake."""
    with pytest.raises(SystemExit, match="contenders: must be some of"):
        bench.main(["--device", "cpu", "--contenders", "X"])


@pytest.mark.slow
def test_throughput_counts_pictures_and_stalls(
    checkpoint: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The figure that batching is for, and the share of time that it leaves on the table."""
    quick = ["--rounds", "1", "--warmups", "0", "--device", "cpu", "--steps", "4", "--at-once", "1", "4"]
    throughput.main([*quick, *UNCOMPILED, "--model", str(checkpoint(9)), "--workload", "mixed"])
    by_number = last_line(capsys)["workloads"]["mixed"]
    assert by_number.keys() == {"1", "4"}
    loop = by_number["4"]["C"]["loop"]
    assert 0 <= loop["stall"] < 1
    assert loop["rows_per_call"] > 1
    assert by_number["4"]["C"]["gain"]["A"]["median_paired"] > 0


@pytest.mark.slow
def test_cold_start_is_timed_from_outside(
    checkpoint: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What an operator waits for begins before Python does."""
    quick = ["--device", "cpu", "--runs", "1", "--pictures", "2", "--steps", "2", "--contenders", "cold"]
    coldstart.main([*quick, *UNCOMPILED, "--model", str(checkpoint(9))])
    (run,) = last_line(capsys)["contenders"]["cold"]["runs"]
    stages_s = [run[f"{stage}_s"] for stage in ("imported", "loaded", "first_picture", "settled")]
    assert stages_s[0] > 0
    assert stages_s == sorted(stages_s)
    assert len(run["pictures_s"]) == 2


def test_warm_needs_cold_before_it() -> None:
    """An empty cache called warm would be a figure of the wrong thing."""
    with pytest.raises(SystemExit, match="warm needs cold"):
        coldstart.main(["--device", "cpu", "--contenders", "warm"])


@pytest.mark.slow
def test_memory_is_of_a_process_of_its_own(
    checkpoint: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Peaks never go down: two plans in one process would both be the larger one's."""
    quick = ["--device", "cpu", "--pictures", "2", "--steps", "2", "--plans", "fp8"]
    memory.main([*quick, *UNCOMPILED, "--model", str(checkpoint(9))])
    figures = last_line(capsys)
    assert figures["by_plan"]["fp8"]["painted"] == 2
    assert figures["plans_by_cap"] == {
        "6": "fp8",
        "8": "tiled",
        "12": "offload-text",
        "16": "resident-8",
        "24": "resident",
    }


def test_a_card_needs_room_for_more_than_torch() -> None:
    """The CUDA context is on the card too: 8 GB reserved of 8 GB is a crash."""
    assert memory.is_good({"painted": 3, "peak_reserved_gb": 7.4}, 8)
    assert not memory.is_good({"painted": 3, "peak_reserved_gb": 7.6}, 8)
    assert not memory.is_good({"failed": "not enough memory", "peak_reserved_gb": 5.0}, 8)


def parts_on_meta(model: Model) -> dict[str, Any]:
    """The shapes of ``model`` without memory."""
    text, text_2 = model.text_encoders
    with torch.device("meta"):
        return {
            "unet": type(model.unet).from_config(model.unet.config),
            "vae": type(model.vae).from_config(model.vae.config),
            "text_encoder": type(text)(text.config),
            "text_encoder_2": type(text_2)(text_2.config),
        }


def test_the_model_made_on_the_device_paints(model: Model) -> None:
    """A buffer left without values would paint, and time, something else each run."""
    request = job(NATIVE_SIZE, "DDIM", num_inference_steps=2)
    pictures = []
    for _ in range(2):
        made = full_size.build_model(CPU, torch.float32, parts_on_meta(model))
        with engine_on(made, Mode(without=frozenset({"compile", "graphs"}))) as ours:
            pictures.append(ours.engine.paint(request).images[0].tobytes())
    assert pictures[0] == pictures[1]
    assert len(set(pictures[0])) > 10


def test_the_parts_of_a_job_are_timed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights of the real shapes are the only full-size model where nothing can be downloaded."""
    quick = ["--device", "cpu", "--side", str(NATIVE_SIZE), "--slots", "1", "2", "--rounds", "1"]
    full_size.main(quick, parts_on_meta(model))
    figures = last_line(capsys)["parts"]
    assert figures.keys() == {"prompts", "encode", "decode", "step 1", "step 2"}
    ratio = figures["step 2"]["tflop"] / figures["step 1"]["tflop"]
    assert ratio == pytest.approx(2, rel=0.05)


def test_both_dtypes_of_a_cpu_are_timed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """The promise of bf16 on a CPU is a ratio, which needs both, each as the engine would compute it."""
    quick = ["--side", str(NATIVE_SIZE), "--turns", "1", "--rounds", "1"]
    dtypes.main(quick, lambda: parts_on_meta(model))
    figures = last_line(capsys)
    assert figures["ms"].keys() == {"float32", "bfloat16"}
    assert all({"qkv", "text-kv"} <= set(names) for names in figures["optimizations"].values())
    assert figures["bf16_over_fp32"]["of_medians"] > 0


@pytest.mark.slow
def test_threads_are_timed_on_an_idle_and_on_a_busy_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Each contender gets its own variables, and the busy loops end with the bench."""
    threads.main(["--contenders", "ours,one", "--busy", "1", "--rounds", "1", "--warmups", "0"])
    figures = last_line(capsys)["figures"]
    assert figures.keys() == {"one picture", "four mixed"}
    assert all(found["busy_ms"]["median"] > 0 for found in figures["four mixed"].values())


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_figures_of_dead_numbers_are_refused(value: float) -> None:
    """Zeros and NaN run faster than a picture does."""
    with pytest.raises(PaintError, match="its timing says nothing"):
        full_size.check_lively("step", torch.full((4,), value))
    full_size.check_lively("step", torch.arange(4.0))


def test_a_cpu_has_no_syncs_to_count() -> None:
    """None, not zero: zero would claim that it had been looked at."""
    assert device.count_syncs(lambda: None, CPU) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_syncs_and_memory_are_counted_on_a_gpu() -> None:
    """The targets on both are only as good as these two counts."""
    cuda = torch.device("cuda")
    x = torch.ones(1024, device=cuda)
    assert device.count_syncs(lambda: x.sum().item(), cuda) == 1
    assert device.count_syncs(lambda: x + 1, cuda) == 0
    assert device.extra_bytes(lambda: torch.empty(2**20, dtype=torch.uint8, device=cuda), cuda) == 2**20


def test_charts_are_drawn_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's charts must come from the kept figures, also those with the keys of older benches."""
    about = {"device": "a CPU", "commit": "abc", "model": "tiny"}
    ms = {"median": 2.0, "min": 1.0, "max": 4.0}
    results: dict[str, Any] = {
        "latency": {"contenders": {"A": {"what": "stock", "ms": ms}}},
        "overhead": {"jobs": [{"scheduler": "DDIM", "ms": {"stock": ms}}]},
        "throughput": {"workloads": {"mixed": {n: {"C": {"pictures_per_s": 1.0}} for n in "124"}}},
        "coldstart": {
            "lanes": {"cli": {"median": {"written_s": 3.0}}, "cold": {"median": {"loaded_s": 2.0}}}
        },
        "near": {
            "quality": {
                "DDIM": {
                    way: {"psnr_db": {"median": 48.0, "worst": 39.0}} for way in ("near", "near, cached")
                },
                "Euler a": {"near": {"left_out": "noise"}, "near, cached": {"left_out": "noise"}},
            }
        },
        "memory": {"caps": {"8": {"plan": "fp8", "peak_reserved_gb": 6.0}}},
        "full_size": {"parts": {"step 1": {"ms": ms}}},
        "serving": {"curve": [{"lane": "ours", "rate": 1.0, "goodput_per_s": {"lock": 0.9}}]},
        "simulate": {"rows": [{"policy": "admission", "load": 1.0, "attainment": 0.8}]},
        "fleet": {"load": 0.9, "rows": [{"gpus": 4, "rule": "random", "routers": 1, "p99_s": 72.0}]},
        "cluster": {"load": 0.9, "router": {"random": {"p50_s": 6.0, "p99_s": 25.0}}},
        "soak": {},
    }
    for name, figures in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"bench": name, **about, **figures}))
    plots.main(["--results", str(tmp_path), "--output", str(tmp_path / "charts")])
    drawn = {Path(path).stem for path in last_line(capsys)["drawn"]}
    assert drawn == plots.CHARTS.keys()
    assert all(path.read_text().startswith("<?xml") for path in (tmp_path / "charts").iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of the program, so a bare install meets this first."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends", None)
    (tmp_path / "latency.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"sdxl-inpaint\[bench\]"):
        plots.main(["--results", str(tmp_path)])
