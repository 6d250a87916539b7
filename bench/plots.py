"""Charts of the benches' results, from the JSON files that they keep; a missing file has no chart.

Each chart names the device and the commit of its figures, and starts its axis at zero. Needs matplotlib,
which is in the extra ``bench``.

    python -m bench.plots [--results bench/results] [--output FOLDER] [--kind svg|png]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.latency import WHAT
from bench.lib.contenders import ROOT

Figures = Mapping[str, Any]

# Results kept before October 2026 have these keys.
RENAMED = {"lanes": "contenders", "lane": "contender"}


def latency(axes: Any, figures: Figures) -> None:
    """Draw a bar for each contender: the median, with the range of the rounds."""
    contenders = figures["contenders"]
    names = [f"{letter}: {contender['what']}" for letter, contender in contenders.items()]
    _bars(axes, names, [contender["ms"] for contender in contenders.values()])
    axes.set_ylabel("milliseconds a picture, median and range")


def overhead(axes: Any, figures: Figures) -> None:
    """Draw a bar for each scheduler and contender."""
    pairs = [
        (job["scheduler"], contender, ms) for job in figures["jobs"] for contender, ms in job["ms"].items()
    ]
    _bars(axes, [f"{scheduler}\n{contender}" for scheduler, contender, _ in pairs], [ms for *_, ms in pairs])
    axes.set_ylabel("milliseconds a picture, median and range")


def _bars(axes: Any, names: Sequence[str], timings: Sequence[Mapping[str, float]]) -> None:
    medians = [ms["median"] for ms in timings]
    below = [ms["median"] - ms["min"] for ms in timings]
    above = [ms["max"] - ms["median"] for ms in timings]
    axes.bar(names, medians, yerr=[below, above], capsize=4)


def throughput(axes: Any, figures: Figures) -> None:
    """Draw a line for each workload and contender, over the number of simultaneous requests."""
    for workload, by_number in figures["workloads"].items():
        for contender in next(iter(by_number.values())):
            rates = [by_contender[contender]["pictures_per_s"] for by_contender in by_number.values()]
            axes.plot(
                [int(number) for number in by_number],
                rates,
                marker="o",
                label=f"{WHAT[contender]}, {workload}",
            )
    axes.set_xlabel("simultaneous requests")
    axes.set_ylabel("pictures a second")
    axes.legend()


def near(axes: Any, figures: Figures) -> None:
    """Draw two bars for each sampler, near and with the cache: the median distance; the worst as a dot."""
    samplers = list(figures["quality"])
    for offset, way in ((-0.2, "near"), (0.2, "near, cached")):
        found = [(i + offset, figures["quality"][name][way]) for i, name in enumerate(samplers)]
        drawn = [(place, one["psnr_db"]) for place, one in found if "psnr_db" in one]
        places = [place for place, _ in drawn]
        axes.bar(places, [decibels["median"] for _, decibels in drawn], width=0.4, label=way)
        axes.plot(places, [decibels["worst"] for _, decibels in drawn], "k.", markersize=4)
    axes.axhline(19, linestyle=":", color="grey", label="another seed")
    axes.set_xticks(range(len(samplers)), samplers, rotation=45, ha="right")
    axes.set_ylabel("dB to the exact picture: median, worst")
    axes.set_ylim(0, 70)  # room for the legend above the bars
    axes.legend(loc="upper center", ncols=3)


def coldstart(axes: Any, figures: Figures) -> None:
    """Draw a stacked bar for each contender: imported, loaded, first picture; one piece for the CLI."""
    for contender, found in figures["contenders"].items():
        bottom = 0.0
        for stage in ("imported_s", "loaded_s", "first_picture_s", "written_s"):
            if stage in found["median"]:
                until = found["median"][stage]
                axes.bar(contender, until - bottom, bottom=bottom, color=f"C{len(stage) % 10}")
                axes.annotate(stage[:-2].replace("_", " "), (contender, until), ha="center", va="top")
                bottom = until
    axes.set_ylabel("seconds since the process was started")


def memory(axes: Any, figures: Figures) -> None:
    """Draw a bar for each cap (on a CPU: each plan) with the memory at the peak."""
    capped = "caps" in figures
    found = figures["caps" if capped else "by_plan"]
    peak = "peak_reserved_gb" if capped else "peak_rss_gb"
    names = [f"{name} GB\n{one['plan']}" if capped else name for name, one in found.items()]
    axes.bar(names, [one[peak] for one in found.values()])
    if capped:
        axes.plot(names, [float(cap) for cap in found], linestyle="", marker="_", markersize=40, label="cap")
        axes.legend()
    axes.set_ylabel("GB at the peak, " + ("reserved by torch" if capped else "resident, with libraries"))


def full_size(axes: Any, figures: Figures) -> None:
    """Draw a bar for each part of the job."""
    _bars(axes, list(figures["parts"]), [part["ms"] for part in figures["parts"].values()])
    axes.set_ylabel("milliseconds, median and range")


def serving(axes: Any, figures: Figures) -> None:
    """Draw a line for each server: good requests a second over those sent; on the diagonal all are good."""
    for contender in sorted({point["contender"] for point in figures["curve"]}):
        points = [point for point in figures["curve"] if point["contender"] == contender]
        good = [point["goodput_per_s"]["lock"] for point in points]
        axes.plot([point["rate"] for point in points], good, marker="o", label=contender)
    fastest = max(point["rate"] for point in figures["curve"])
    axes.plot([0, fastest], [0, fastest], linestyle=":", color="grey", label="all of them")
    axes.set_xlabel("requests a second")
    axes.set_ylabel("painted within 5 × the lock's time alone, a second")
    axes.legend()


def simulate(axes: Any, figures: Figures) -> None:
    """Draw a line for each policy: the share that was served in time, over the load."""
    for policy in dict.fromkeys(row["policy"] for row in figures["rows"]):
        rows = [row for row in figures["rows"] if row["policy"] == policy]
        shares = [row["attainment"] for row in rows]
        axes.plot([row["load"] for row in rows], shares, marker="o", label=policy)
    axes.set_xlabel("load, in capacities")
    axes.set_ylabel("served in time, of all sent")
    axes.legend()


def fleet(axes: Any, figures: Figures) -> None:
    """Draw a line for each way to choose a GPU: a request's seconds, 99th percentile, over the GPUs."""
    for rule, routers in dict.fromkeys((row["rule"], row["routers"]) for row in figures["rows"]):
        rows = [row for row in figures["rows"] if (row["rule"], row["routers"]) == (rule, routers)]
        label = rule.replace("-", " ") + (f", {routers} routers" if routers > 1 else "")
        axes.plot([row["gpus"] for row in rows], [row["p99_s"] for row in rows], marker="o", label=label)
    sizes = sorted({row["gpus"] for row in figures["rows"]})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel(f"GPUs, each at {figures['load']:g} of its capacity")
    axes.set_ylabel("seconds, 99th percentile")
    axes.legend()


def cluster(axes: Any, figures: Figures) -> None:
    """Draw two bars for each way to choose an engine: the median and the 99th percentile of the seconds."""
    contenders = figures["router"]
    for offset, which in ((-0.2, "p50_s"), (0.2, "p99_s")):
        places = [number + offset for number in range(len(contenders))]
        axes.bar(places, [contender[which] for contender in contenders.values()], width=0.4, label=which[:-2])
    axes.set_xticks(range(len(contenders)), list(contenders))
    axes.set_ylabel(f"seconds, 4 engines at {figures['load']:g} of their capacity")
    axes.legend()


CHARTS: Mapping[str, Callable[[Any, Figures], None]] = {
    chart.__name__: chart
    for chart in (
        latency,
        overhead,
        throughput,
        near,
        coldstart,
        memory,
        full_size,
        serving,
        simulate,
        fleet,
        cluster,
    )
}


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in found.items()}


def draw(file: Path, output: Path, kind: str) -> Path | None:
    """Draw the chart of one result file; return None if its bench has no chart."""
    from matplotlib.backends import backend_agg  # no pyplot: no window, no state
    from matplotlib.figure import Figure

    figures = json.loads(file.read_text("utf-8"), object_hook=_renamed)
    chart = CHARTS.get(figures.get("bench", ""))
    if chart is None:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    chart(axes, figures)
    axes.set_ylim(bottom=0)
    model = f", {figures['model']}" if "model" in figures else ""
    where = f"{figures['device']}, commit {figures['commit']}" if "device" in figures else figures["costs"]
    axes.set_title(f"{figures['bench']}{model}\n{where}", fontsize=9)
    target = output / f"{file.stem}.{kind}"
    figure.savefig(target)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="(bench/results)")
    options.add_argument("--output", type=Path, help="(default: where the results are)")
    options.add_argument("--kind", choices=("svg", "png"), default="svg")
    chosen = options.parse_args(arguments)
    output = chosen.output or chosen.results
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(chosen.results.glob("*.json"))
    try:
        drawn = [(file, draw(file, output, chosen.kind)) for file in files]
    except ModuleNotFoundError as missing:
        sys.exit(f"{missing.name} is not installed; charts need: pip install 'sdxl-inpaint[bench]'")
    for file, target in drawn:
        print(f"{file.name}: {target.name if target else 'no chart for it'}")
    print(json.dumps({"bench": "plots", "drawn": [str(target) for _, target in drawn if target]}))


if __name__ == "__main__":
    main()
