"""Weights exchanged where they lie: what holds on to them goes on, and gets the old ones back."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint.batching.work import Bucket
from inpaint.fast import compiled
from inpaint.fast.fp8 import Fp8Linear
from inpaint.fast.optimizations import ready
from inpaint.fast.shapes import usual
from inpaint.lora import merge
from inpaint.lora.cache import LoraCache, LoraSet
from inpaint.lora.merge import HotMerge
from inpaint.lora.spec import LoraUse
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from tests.support.fast_rows import apart, own_model, random_batch
from tests.support.lora_making import LAYERS, merged_by_hand, write_lora

CPU = torch.device("cpu")
UNET = len(LAYERS["unet"])
Wear = Callable[..., None]


@pytest.fixture
def own(checkpoint: Callable[[int], Path]) -> Model:
    """A tiny model that may be changed."""
    return own_model("tiny", checkpoint)


@pytest.fixture
def loras(tmp_path: Path, model: Model) -> Path:
    """With one LoRA a seed."""
    for seed in (1, 2):
        write_lora(tmp_path, f"lora{seed}", model, ["unet"], seed=seed)
    return tmp_path


@pytest.fixture
def wear(own: Model, loras: Path) -> Wear:
    """(seed, scale)… → they are merged into the model's UNet, in place of those before."""
    library, exchange = LoraCache(own.unet, own.text_encoders, CPU, loras), HotMerge(CPU, own.weights_lock)

    def use(*wanted: tuple[int, float]) -> None:
        exchange.use(library.load([LoraUse(f"lora{seed}", scale) for seed, scale in wanted]).unet)

    return use


@pytest.fixture(params=["device", "host"])
def own_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a GPU, where weights are no pages of a file: with room for the weights before, and without."""
    free = 2**40 if request.param == "device" else 0
    monkeypatch.setattr(merge, "_free_bytes", lambda device: free)
    return str(request.param)


def addresses(model: Model) -> dict[str, int]:
    return {name: weight.data_ptr() for name, weight in model.unet.state_dict().items()}


def bits(model: Model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.unet.state_dict().items()}


def changed(model: Model, before: dict[str, torch.Tensor]) -> int:
    return sum(not torch.equal(weight, before[name]) for name, weight in model.unet.state_dict().items())


@pytest.mark.parametrize("optimizations", [(), ("qkv",), ("qkv", "fp8"), ("channels-last",)], ids="+".join)
def test_weights_stay_where_they_are(
    optimizations: Sequence[str], own: Model, wear: Wear, own_memory: str
) -> None:
    """Recorded CUDA graphs read them by their addresses; joined and 8-bit ones too."""
    ready(own, optimizations)
    before, at = bits(own), addresses(own)
    wear((1, 1.0))
    assert changed(own, before) >= UNET - 3, "joined layers are one; in 8 bit a scale each goes along"
    wear((2, -0.5), (1, 0.5))
    wear((2, 1.0))
    assert addresses(own) == at
    wear()
    assert addresses(own) == at
    assert changed(own, before) == 0


def test_a_set_in_place_of_another_is_as_if_that_had_never_been(own: Model, loras: Path, wear: Wear) -> None:
    """Nothing of a style is left in the next, neither in the layers that both change nor in the others."""
    narrow = write_lora(loras, "lora3", own, ["unet"], seed=3)
    save_file({key: value for key, value in load_file(narrow).items() if "conv_in" in key}, narrow)
    base = bits(own)
    wear((3, 1.0))
    first = bits(own)
    assert changed(own, base) == 1
    wear((1, 4.0))
    wear((3, 1.0))
    assert changed(own, first) == 0


def test_a_loaded_file_is_never_written_to(own: Model, checkpoint: Callable[[int], Path], wear: Wear) -> None:
    """On a CPU a weight may be a page of the checkpoint's file."""
    path = checkpoint(9) / "unet" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    wear((1, 4.0))
    assert path.read_bytes() == before
    wear()
    assert path.read_bytes() == before


def test_the_weights_before_are_let_go_of(own: Model, loras: Path) -> None:
    """On a GPU they are as large as the layers that changed; who uses no LoRA has the memory for batches."""
    library, exchange = LoraCache(own.unet, own.text_encoders, CPU, loras), HotMerge(CPU, own.weights_lock)
    exchange.use(library.load([LoraUse("lora1")]).unet)
    assert len(exchange._before) == UNET
    exchange.use(())
    assert not exchange._before


def test_a_failure_half_way_leaves_the_base_model(
    own: Model, wear: Wear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in the middle must not leave everybody with half a style."""
    before, wrote = bits(own), merge._write
    left = iter(range(5))

    def fail(module: object, weight: torch.Tensor) -> None:
        if next(left, None) is None:
            monkeypatch.setattr(merge, "_write", wrote)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        wrote(module, weight)

    monkeypatch.setattr(merge, "_write", fail)
    with pytest.raises(torch.OutOfMemoryError):
        wear((1, 1.0))
    assert changed(own, before) == 0
    wear((1, 1.0))
    assert changed(own, before) == UNET


def test_weights_in_8_bit_are_made_from_the_matrices_themselves(own: Model, model: Model, wear: Wear) -> None:
    """What one would have who merged the LoRA first and converted then, to the last bit."""
    ready(own, ("fp8",))
    wear((1, 0.3))
    other = merged_by_hand(model, [(1, 0.3)], ["unet"])
    ready(other, ("fp8",))
    layers = [name for name in LAYERS["unet"] if isinstance(own.unet.get_submodule(name), Fp8Linear)]
    assert layers
    for name in layers:
        ours, theirs = own.unet.get_submodule(name), other.unet.get_submodule(name)
        torch.testing.assert_close(ours.scale, theirs.scale, rtol=1e-5, atol=0)
        equal = (ours.weight.float() == theirs.weight.float()).float().mean()
        assert equal > 0.99, "but for the rounding of another order of the same sums"


def test_compiled_code_has_the_loras(
    own: Model, model: Model, wear: Wear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled once, before anybody named one. Tracing is what is at stake, not the code made of it."""
    monkeypatch.setattr(merge, "_free_bytes", lambda device: 2**40)
    compilation = compiled.wrap(
        own,
        plain(own.unet),
        buckets=[Bucket(8, 8)],
        slots=(2,),
        stages=("regional",),
        backend=lambda graph, inputs: graph.forward,
    )
    compilation.start()
    try:
        assert compilation.wait(200) == "regional"
        batch = random_batch(own, "ab")
        base = compilation(batch)
        for wanted in (((1, 1.0),), ((2, 0.5), (1, -0.5))):
            wear(*wanted)
            expected = plain(merged_by_hand(model, wanted, ["unet"]).unet)(batch)
            assert apart(compilation(batch), expected) < 1e-4
        wear()
        assert torch.equal(compilation(batch), base)
        assert compilation.state == "regional", "none of the calls was passed over"
    finally:
        compilation.close()


def test_weights_are_not_exchanged_while_two_ways_are_compared(own: Model, wear: Wear) -> None:
    """It would look as if the compiled code were wrong, which switches it off for good."""
    compilation, held = compiled.wrap(own, plain(own.unet)), []

    def watched(batch: UNetBatch) -> torch.Tensor:
        held.append(own.weights_lock.locked())
        return plain(own.unet)(batch)

    compilation._try(watched, watched, usual(own, Bucket(8, 8), 2))
    assert held == [False, True, True], "compiled, then both of the compared"
    before = bits(own)
    exchanging = threading.Thread(target=wear, args=((1, 1.0),))
    with own.weights_lock:
        exchanging.start()
        exchanging.join(0.2)
        assert exchanging.is_alive()
        assert changed(own, before) == 0
    exchanging.join()
    assert changed(own, before) == UNET


def test_what_is_kept_is_what_was_used_last(own: Model, model: Model, tmp_path: Path) -> None:
    """A folder of a hundred styles does not fill the memory."""
    for seed in range(4):
        write_lora(tmp_path, f"lora{seed}", model, seed=seed)
    one = LoraCache(own.unet, own.text_encoders, CPU, tmp_path)
    first = one.load([LoraUse("lora0")])
    size = sum(held.size_bytes for held in one._held._values.values())
    library = LoraCache(own.unet, own.text_encoders, CPU, tmp_path, max_bytes=2 * size)
    sets: list[LoraSet] = [library.load([LoraUse(f"lora{seed}")]) for seed in (0, 1, 2)]
    assert list(library._held._values) == ["lora1", "lora2"]
    assert library.load([LoraUse("lora1", 0.5)]).loras[0] is sets[1].loras[0], "another scale reads nothing"
    library.load([LoraUse("lora3")])
    assert list(library._held._values) == ["lora1", "lora3"]
    assert len(first.loras[0].unet) == UNET


def test_a_lora_larger_than_the_limit_is_still_read_only_once(
    own: Model, model: Model, tmp_path: Path
) -> None:
    """It is held alone, since reading it again for each request would take seconds."""
    for seed in range(2):
        write_lora(tmp_path, f"lora{seed}", model, seed=seed)
    library = LoraCache(own.unet, own.text_encoders, CPU, tmp_path, max_bytes=1)
    for name in ("lora0", "lora1"):
        first, again = (library.load([LoraUse(name)]).loras[0] for _ in range(2))
        assert again is first
        assert list(library._held._values) == [name]
