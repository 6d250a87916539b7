"""Make the code of parts of SDXL for cards that are not there, and print what came out as one line of JSON.

Each card has a process of its own, forked from one that has imported torch, because both torch and Triton
keep what they learnt about a card.

    python -m tests.inpaint.nocard.lowering FOLDER --cards sm_90 sm_120 --parts transformer resnet
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def lowered(card_name: str, names: Sequence[str]) -> dict[str, Any]:
    """Return part → its code for a card, in this process."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tests.inpaint.nocard.lowering.card import CARDS, pretend
    from tests.inpaint.nocard.lowering.lower import Lowering, problems
    from tests.inpaint.nocard.lowering.parts import PARTS

    card, found = CARDS[card_name], {}
    pretend(card)
    lower = Lowering()
    with FakeTensorMode(), torch.inference_mode():
        for name in names:
            if name.startswith("fp8") and not card.fp8:
                continue
            started = time.perf_counter()
            found[name] = PARTS[name](lower)
            found[name]["problems"] = problems(found[name], card.shared_bytes)
            found[name]["seconds"] = round(time.perf_counter() - started, 1)
            kernels, seconds = len(found[name]["kernels"]), found[name]["seconds"]
            sys.stderr.write(f"{card_name} {name}: {kernels} kernels, {seconds} s\n")
    return found


def _in_child(card: str, parts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return what :func:`lowered` does, from a forked process with caches of its own."""
    out = folder / f"{card}.json"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / card / "inductor")
            os.environ["TRITON_CACHE_DIR"] = str(folder / card / "triton")
            out.write_text(json.dumps(lowered(card, parts)), "utf-8")
            status = 0
        except BaseException:  # noqa: BLE001 - the parent must not go on as this process
            import traceback

            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"no code for {card}; see above")
    result: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", type=Path, help="for the compilers' caches and the code")
    options.add_argument("--cards", nargs="+", required=True)
    options.add_argument("--parts", nargs="+", required=True)
    chosen = options.parse_args()
    # Before the fork, so that it is done once.
    import torch._dynamo
    import torch._inductor.compile_fx
    import torch._inductor.runtime.triton_heuristics

    import tests.inpaint.nocard.lowering.parts  # noqa: F401

    torch.set_num_threads(1)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(
        json.dumps({card: _in_child(card, chosen.parts, chosen.folder) for card in chosen.cards})
    )


if __name__ == "__main__":
    main()
