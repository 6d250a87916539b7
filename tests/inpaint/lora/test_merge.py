"""Merging LoRAs in place and switching them: addresses stay, and the original weights come back."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint.batching.work import Bucket
from inpaint.errors import ModelError
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
UseLoras = Callable[..., None]


@pytest.fixture
def own(checkpoint: Callable[[int], Path]) -> Model:
    """Load a tiny model that may be changed."""
    return own_model("tiny", checkpoint)


@pytest.fixture
def loras(tmp_path: Path, model: Model) -> Path:
    """Make a folder with one LoRA per seed."""
    for seed in (1, 2):
        write_lora(tmp_path, f"lora{seed}", model, ["unet"], seed=seed)
    return tmp_path


@pytest.fixture
def use_loras(own: Model, loras: Path) -> UseLoras:
    """Return a function of (seed, scale)… that merges these LoRAs in place of the previous ones."""
    library, hot = LoraCache(own.unet, own.text_encoders, CPU, loras), HotMerge(CPU, own.weights_lock)

    def use(*wanted: tuple[int, float]) -> None:
        hot.use(library.load([LoraUse(f"lora{seed}", scale) for seed, scale in wanted]).unet)

    return use


@pytest.fixture(params=["device", "host"])
def own_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Save original weights as on a GPU, once with room for them on the device and once without."""
    free = 2**40 if request.param == "device" else 0
    monkeypatch.setattr(merge, "_free_bytes", lambda device: free)
    return str(request.param)


def addresses(model: Model) -> dict[str, int]:
    return {name: weight.data_ptr() for name, weight in model.unet.state_dict().items()}


def bits(model: Model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.unet.state_dict().items()}


def changed(model: Model, before: dict[str, torch.Tensor]) -> int:
    return sum(not torch.equal(weight, before[name]) for name, weight in model.unet.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("optimizations", [(), ("qkv",), ("qkv", "fp8"), ("channels-last",)], ids="+".join)
def test_weights_keep_their_addresses(
    optimizations: Sequence[str], own: Model, use_loras: UseLoras, own_memory: str
) -> None:
    """Recorded CUDA graphs read weights by their addresses, joined and 8-bit ones too."""
    ready(own, optimizations)
    before, at = bits(own), addresses(own)
    use_loras((1, 1.0))
    assert changed(own, before) >= UNET - 3, "joined layers are one; in 8 bit a scale each goes along"
    use_loras((2, -0.5), (1, 0.5))
    use_loras((2, 1.0))
    assert addresses(own) == at
    use_loras()
    assert addresses(own) == at
    assert changed(own, before) == 0


def test_a_set_of_loras_leaves_nothing_in_the_next(own: Model, loras: Path, use_loras: UseLoras) -> None:
    """A style must not remain in the next one's pictures, in shared layers or in others."""
    narrow = write_lora(loras, "lora3", own, ["unet"], seed=3)
    save_file({key: value for key, value in load_file(narrow).items() if "conv_in" in key}, narrow)
    base = bits(own)
    use_loras((3, 1.0))
    first = bits(own)
    assert changed(own, base) == 1
    use_loras((1, 4.0))
    use_loras((3, 1.0))
    assert changed(own, first) == 0


def test_a_loaded_file_is_never_written_to(
    own: Model, checkpoint: Callable[[int], Path], use_loras: UseLoras
) -> None:
    """On a CPU a weight may be a page of the checkpoint's file."""
    path = checkpoint(9) / "unet" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    use_loras((1, 4.0))
    assert path.read_bytes() == before
    use_loras()
    assert path.read_bytes() == before


def test_the_saved_weights_are_freed(own: Model, loras: Path) -> None:
    """They are as large as the changed layers, memory that requests without LoRAs need for batches."""
    library, hot = LoraCache(own.unet, own.text_encoders, CPU, loras), HotMerge(CPU, own.weights_lock)
    hot.use(library.load([LoraUse("lora1")]).unet)
    assert len(hot._before) == UNET
    hot.use(())
    assert not hot._before


def test_a_failure_half_way_leaves_the_base_model(
    own: Model, use_loras: UseLoras, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in the middle must not leave half a style for all later requests."""
    before, wrote = bits(own), merge._write
    left = iter(range(5))

    def fail(module: object, weight: torch.Tensor) -> None:
        if next(left, None) is None:
            monkeypatch.setattr(merge, "_write", wrote)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        wrote(module, weight)

    monkeypatch.setattr(merge, "_write", fail)
    with pytest.raises(torch.OutOfMemoryError):
        use_loras((1, 1.0))
    assert changed(own, before) == 0
    use_loras((1, 1.0))
    assert changed(own, before) == UNET


def test_weights_in_8_bit_are_made_from_the_matrices_themselves(
    own: Model, model: Model, use_loras: UseLoras
) -> None:
    """The result equals merging the LoRA first and converting then, to the last bit."""
    ready(own, ("fp8",))
    use_loras((1, 0.3))
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
    own: Model, model: Model, use_loras: UseLoras, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code is compiled once, before any LoRA is named; only the tracing is tested here."""
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
            use_loras(*wanted)
            expected = plain(merged_by_hand(model, wanted, ["unet"]).unet)(batch)
            assert apart(compilation(batch), expected) < 1e-4
        use_loras()
        assert torch.equal(compilation(batch), base)
        assert compilation.state == "regional", "none of the calls was passed over"
    finally:
        compilation.close()


def test_weights_are_not_switched_while_compiled_code_is_compared(own: Model, use_loras: UseLoras) -> None:
    """A difference would look like a fault of the compiled code, which would be switched off for good."""
    compilation, held = compiled.wrap(own, plain(own.unet)), []

    def watched(batch: UNetBatch) -> torch.Tensor:
        held.append(own.weights_lock.locked())
        return plain(own.unet)(batch)

    compilation._try(watched, watched, usual(own, Bucket(8, 8), 2))
    assert held == [False, True, True], "compiled, then both of the compared"
    before = bits(own)
    switching = threading.Thread(target=use_loras, args=((1, 1.0),))
    with own.weights_lock:
        switching.start()
        switching.join(0.2)
        assert switching.is_alive()
        assert changed(own, before) == 0
    switching.join()
    assert changed(own, before) == UNET


def test_the_loras_used_last_are_held(own: Model, model: Model, tmp_path: Path) -> None:
    """A folder of a hundred styles must not fill the memory."""
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


def test_a_lora_larger_than_the_limit_stays_off_the_device(own: Model, model: Model, tmp_path: Path) -> None:
    """Whole differences are as large as the model, for which the memory plan has counted the device."""
    write_lora(tmp_path, "lora0", model)
    device = torch.device("meta")
    for max_bytes, expected in ((2**30, device), (1000, CPU)):
        library = LoraCache(own.unet, own.text_encoders, device, tmp_path, max_bytes=max_bytes)
        (lora,) = library.load([LoraUse("lora0")]).loras
        assert {change.up.device for change in lora.unet} == {expected}


def test_a_replaced_configuration_is_a_replaced_lora(own: Model, model: Model, tmp_path: Path) -> None:
    """It says how strong the LoRA is; requests that share a batch must mean the same."""
    write_lora(tmp_path, "adapter_model", model, ["unet"])
    config = tmp_path / "adapter_config.json"
    library = LoraCache(own.unet, own.text_encoders, CPU, tmp_path)
    config.write_text('{"lora_alpha": 4, "r": 4}')
    first = library.load([LoraUse("adapter_model")]).loras[0]
    assert library.load([LoraUse("adapter_model", 0.5)]).loras[0] is first
    config.write_text('{"lora_alpha": 64, "r": 4}')
    with pytest.raises(ModelError, match="adapter_model was replaced since this program first used it"):
        library.load([LoraUse("adapter_model")])
