"""Machine code for seven kinds of card, made without one: it exists, stays in 16 bit and in NHWC, and fits.

A user whose card cannot run what torch.compile makes gets slow pictures and one line in a log, and we have no
card to see it on. Counts are ratchets: fewer kernels or transpositions is an improvement to write down here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.inpaint.nocard.lowering.card import CARDS
from tests.support.paths import ROOT

# Part → the most kernels of Triton's that any card gets, and of these, kernels that change the layout.
# A transformer's two are its GroupNorm, which leaves NHWC, and the way back: torch decomposes GroupNorm into
# operations on NCHW, and only a convolution after it asks for NHWC.
MOST = {
    "transformer": (11, 2),
    "resnet": (11, 0),
    "down": (1, 0),
    "up": (2, 0),
    "fp8_block": (10, 0),
    "fp8_block_one_scale": (8, 0),
    "vae_mid": (15, 1),
    "vae_up": (16, 0),
}
WHOLE_UNET = (114, 8)

Made = dict[str, dict[str, Any]]  # card → part → what was made


@pytest.fixture
def lowered(tmp_path: Path) -> Callable[..., Made]:
    """Make code in a process of its own, which must not keep torch in the belief that it has a card."""
    if not find_spec("triton"):
        if os.environ.get("CI") == "true" or sys.platform == "linux":
            pytest.fail("needs Triton, which is not installed: make install")
        pytest.skip(f"needs Triton, which has no package for {sys.platform}")

    def make(cards: Sequence[str], parts: Sequence[str]) -> Made:
        command = [sys.executable, "-m", "tests.inpaint.nocard.lowering", str(tmp_path), "--cards", *cards]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--parts", *parts], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-5000:]
        made: Made = json.loads(done.stdout)
        assert list(made) == list(cards)
        return made

    return make


def check(made: Made) -> None:
    """Compare everything that was made with what is allowed, and name all that is not."""
    wrong = []
    for card, parts in made.items():
        for part, code in parts.items():
            kernels, transposing = MOST.get(part, WHOLE_UNET)
            wrong += [f"{card}, {part}: {problem}" for problem in code["problems"]]
            if not code["kernels"] or min(code["kernels"].values()) < 1000:
                wrong.append(f"{card}, {part}: a kernel has no machine code")
            if len(code["kernels"]) > kernels or len(code["transposing"]) > transposing:
                wrong.append(
                    f"{card}, {part}: {len(code['kernels'])} kernels of at most {kernels}, "
                    f"{len(code['transposing'])} of at most {transposing} transpose: {code['transposing']}"
                )
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.gate
@pytest.mark.timeout(900)  # compilers on a machine that is busy with other tests
def test_the_blocks_compile_for_the_oldest_and_the_newest_cards(lowered: Callable[..., Made]) -> None:
    """Else a user of such a card paints uncompiled and learns it from a log."""
    check(lowered(["sm_75", "sm_120"], ["resnet", "transformer"]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_compiles_for_every_card(lowered: Callable[..., Made]) -> None:
    """The same for all cards that README names, with the VAE's decoder and the products in 8 bit."""
    made = lowered([*CARDS], [*MOST])
    check(made)
    for card, parts in made.items():
        assert set(parts) == {part for part in MOST if not part.startswith("fp8") or CARDS[card].fp8}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_unet_compiles(lowered: Callable[..., Made]) -> None:
    """In the end the compile thread makes the whole UNet; its blocks say nothing about what joins them."""
    check(lowered(["sm_90"], ["whole_unet"]))


def test_wrong_code_is_reported(lowered: Callable[..., Made]) -> None:
    """Else the tests above would pass without looking: fp32, a transposition, and too much shared memory."""
    parts = lowered(["sm_120"], ["fp32_product", "transposed", "greedy"])["sm_120"]
    assert parts["fp32_product"]["problems"] == ["1 × mm float32"]
    assert len(parts["transposed"]["transposing"]) == 1
    limit = CARDS["sm_120"].shared_bytes
    assert parts["greedy"]["problems"] == [
        f"_product asks for 131072 bytes of shared memory, and a block has {limit}"
    ]
    assert CARDS["sm_90"].shared_bytes > 131072  # which would have it
