"""The steps of a GPU check for which there is no bench: GPU tests, a full card, a failed card, many sizes.

python -m tools.gpu_check.checks tests|out-of-memory|device-assert|sizes --device cuda --json FILE
"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.full_size import measure
from bench.lib.jobs import SETTINGS, job, pictures
from bench.lib.ours import default_model, engine_on, load
from inpaint import Engine, InpaintRequest
from inpaint.errors import DeviceError, InpaintError
from inpaint.model.load import pick_device
from inpaint.runtime.faults import Faults

ROOT = Path(__file__).parents[2]
_GIB = 2**30
_MARGIN_BYTES = 64 << 20  # what is left free on a full card
# Sides as shares of the native square, in sixteenths: the shapes of masks that people draw.
SIZES = ((16, 16), (18, 14), (14, 18), (20, 12), (12, 20), (16, 12), (12, 16), (14, 14), (18, 12), (12, 18),
         (20, 10), (10, 20), (16, 10), (10, 16), (12, 12))  # fmt: skip


def tests(device: torch.device, number: int) -> dict[str, Any]:
    """Run the tests that are marked ``gpu``; without a GPU pytest skips them, and the counts say so."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        marked = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/inpaint",
        ]
        subprocess.run([*marked, "tests/bench", f"--junitxml={report}"], cwd=ROOT, check=False)
        return counts(report)


def small_parts(device: torch.device, number: int) -> dict[str, Any]:
    """Time the parts of a model of the demo's shapes, where SDXL's would take minutes each."""
    model = load("demo", device)
    text, text_2 = model.text_encoders
    with torch.device("meta"):
        parts = {
            "unet": type(model.unet).from_config(model.unet.config),
            "vae": type(model.vae).from_config(model.vae.config),
            "text_encoder": type(text)(text.config),
            "text_encoder_2": type(text_2)(text_2.config),
        }
    return measure(device, torch.float32, model.native_size, (1, 2), 1, parts)


def counts(report: Path) -> dict[str, Any]:
    """Return how many tests of a JUnit report passed, failed and were skipped, and which failed."""
    cases = ET.parse(report).getroot().iter("testcase")
    found: dict[str, Any] = {"passed": 0, "skipped": 0, "failed": 0, "failures": []}
    for case in cases:
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            found["failed"] += 1
            found["failures"].append(f"{case.get('classname')}::{case.get('name')}")
        else:
            found["skipped" if "skipped" in kinds else "passed"] += 1
    return found


def _endings(engine: Engine, requests: Sequence[InpaintRequest]) -> list[str]:
    """Paint all requests together; return ``painted`` or the error's class and text for each."""
    with ThreadPoolExecutor(len(requests)) as callers:
        return [*callers.map(lambda request: _ending(engine, request), requests)]


def _ending(engine: Engine, request: InpaintRequest) -> str:
    try:
        engine.paint(request)
    except InpaintError as error:
        return f"{type(error).__name__}: {error}"
    return "painted"


def _full(device: torch.device) -> list[torch.Tensor]:
    """Return tensors that take nearly all free memory of a GPU; nothing on a CPU."""
    if device.type != "cuda":
        return []
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    return [torch.empty(max(free - _MARGIN_BYTES, 1), dtype=torch.uint8, device=device)]


def out_of_memory(device: torch.device, number: int) -> dict[str, Any]:
    """Paint on a GPU that another tensor has filled, then after it is gone."""
    model = load(default_model(device, None), device)
    faults = Faults.parse("oom@1+:prompt=full") if device.type == "cpu" else None
    with engine_on(model, faults=faults) as ours:
        side = model.native_size
        hog = _full(device)
        during = _endings(
            ours.engine, [job(side, "DDIM", prompt=f"full {n}", num_inference_steps=4) for n in "abc"]
        )
        hog.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        after = _endings(ours.engine, [job(side, "DDIM", num_inference_steps=4)])
    wrong = [said for said in during if not said.startswith(("painted", "OutOfMemoryError"))]
    return {
        "during": during,
        "after": after,
        "other_errors": len(wrong),
        "painted_after": after.count("painted"),
    }


def device_assert(device: torch.device, number: int) -> dict[str, Any]:
    """Paint a picture, make the GPU fail, and paint again: that must end with ``DeviceError``."""
    model = load(default_model(device, None), device)
    faults = Faults.parse("assert@1+:prompt=failed") if device.type == "cpu" else None
    engine = Engine(model, faults=faults)  # not closed with a block: what waits for a dead GPU may raise
    request = job(model.native_size, "DDIM", num_inference_steps=4)
    before = _endings(engine, [request])
    if device.type == "cuda":
        torch._assert_async(torch.zeros((), device=device))  # noqa: SLF001 - a real device-side assert
    after = _endings(engine, [job(model.native_size, "DDIM", prompt="failed", num_inference_steps=4)])
    errors = sum(said.startswith(DeviceError.__name__) for said in after)
    return {"before": before, "after": after, "device_errors": errors}


def sizes(device: torch.device, number: int) -> dict[str, Any]:
    """Paint pictures of all sizes in turn; return the memory that torch had reserved after each."""
    model = load(default_model(device, None), device)
    reserved: list[float] = []
    with engine_on(model) as ours:
        for n in range(number):
            request = _of_size(model.native_size, SIZES[n % len(SIZES)], n)
            said = _endings(ours.engine, [request])
            assert said == ["painted"], said
            reserved.append(_reserved_gib(device))
    half = reserved[len(reserved) // 2]
    return {"painted": len(reserved), "reserved_gib": reserved, "growth_gib": round(reserved[-1] - half, 3)}


def _of_size(native: int, sixteenths: tuple[int, int], n: int) -> InpaintRequest:
    width, height = (native * part // 16 // 8 * 8 for part in sixteenths)
    picture, mask = (square.resize((width, height)) for square in pictures(native))
    settings = {**SETTINGS, "seed": n, "num_inference_steps": 4, "prompt": f"size {n}"}
    return InpaintRequest(image=picture, mask=mask, scheduler="DDIM", **settings)


def _reserved_gib(device: torch.device) -> float:
    return round(torch.cuda.memory_reserved(device) / _GIB, 3) if device.type == "cuda" else 0.0


CHECKS: Mapping[str, Callable[[torch.device, int], dict[str, Any]]] = {
    "tests": tests,
    "small-parts": small_parts,
    "out-of-memory": out_of_memory,
    "device-assert": device_assert,
    "sizes": sizes,
}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("check", choices=CHECKS)
    options.add_argument("--device", required=True)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--pictures", type=int, default=120)
    chosen = options.parse_args()
    found = CHECKS[chosen.check](pick_device(chosen.device), chosen.pictures)
    chosen.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found), flush=True)
    sys.stdout.flush()
    if chosen.check == "device-assert":
        import os

        os._exit(0)  # tearing a dead context down may raise or hang


if __name__ == "__main__":
    main()
