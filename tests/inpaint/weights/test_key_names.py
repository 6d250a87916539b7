"""SDXL's tensors in both naming schemes, with diffusers' own loader as the oracle."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint.errors import ModelError
from inpaint.model.load import load_model
from inpaint.weights.check_shapes import check_fits
from inpaint.weights.detect import check_single_file
from inpaint.weights.key_names import Piece, pieces_of_component, pieces_of_file
from inpaint.weights.tensors import Stored, header_of, read_layout
from tests.support.single_file import as_original, original_tensors, with_leftovers, write_single_file
from tools.full_size.make import build

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
Place = tuple[str, str]


def pieces(path: Path) -> dict[Place, Piece]:
    return {piece.place: piece for found in pieces_of_file(read_layout(path)).values() for piece in found}


def as_diffusers_loads(path: Path, configs: Path) -> dict[Place, torch.Tensor]:
    """Return every parameter of the four models that diffusers loads from a single file: the oracle."""
    model = load_model(path, "test", torch.device("cpu"), torch.float32, configs=configs)
    modules = zip(COMPONENTS, (model.unet, model.vae, *model.text_encoders), strict=True)
    return {
        (component, name.removeprefix("text_model.")): parameter.detach()
        for component, module in modules
        for name, parameter in module.named_parameters()
    }


def write_sparse(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a ``.safetensors`` file of these shapes in fp16, a hole instead of values: 7 GB take no space."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """Build SDXL's components on the meta device, without memory."""
    return build(9)


@pytest.fixture
def real_file(real: dict[str, Any], tmp_path: Path) -> Path:
    """Write SDXL's inpainting checkpoint as a single file, without values."""
    parts = (dict(real[component].named_parameters()) for component in COMPONENTS)
    return write_sparse(tmp_path / "real.safetensors", as_original(*parts, layers_per_block=2))


@pytest.mark.parametrize("in_channels", [9, 4])
def test_every_tensor_is_read_as_diffusers_loads_it(
    in_channels: int, checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """A tensor taken for another would paint noise, or a style that is subtly wrong."""
    path = tmp_path / "x.safetensors"
    save_file(with_leftovers(original_tensors(checkpoint(in_channels))), path)
    expected = as_diffusers_loads(path, checkpoint(9))
    found = pieces(path)
    assert set(found) == set(expected)
    for place, tensor in expected.items():
        stored = found[place].stored
        assert torch.equal(stored.read(0, stored.rows), tensor), place


def test_a_folder_has_the_places_of_its_single_file(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """Folders and single files can be merged with one another."""
    single = pieces(write_single_file(checkpoint(4), tmp_path / "x.safetensors"))
    for component in COMPONENTS:
        (file,) = (checkpoint(4) / component).glob("*.safetensors")
        found = pieces_of_component(component, read_layout(file)).values()
        places = {piece.place: piece.stored.shape for (piece,) in found}
        assert places == {
            place: piece.stored.shape for place, piece in single.items() if place[0] == component
        }


def test_the_real_models_names_are_all_known(real: dict[str, Any], real_file: Path) -> None:
    """The tiny model has one layer a block, SDXL two."""
    expected = {
        (component, name.removeprefix("text_model.")): tuple(parameter.shape)
        for component in COMPONENTS
        for name, parameter in real[component].named_parameters()
    }
    assert {place: piece.stored.shape for place, piece in pieces(real_file).items()} == expected
    assert len(expected) == 1680 + 248 + 196 + 517


def test_the_real_names_are_diffusers_own(real: dict[str, Any], real_file: Path) -> None:
    """diffusers' conversion, given a label for every tensor, puts each in the same place."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    layout = read_layout(real_file)
    ours = pieces_of_file(layout)
    labels = {name: torch.empty(stored.shape, device="meta") for name, stored in layout.items()}
    found = {id(tensor): name for name, tensor in labels.items()}
    unet = convert_ldm_unet_checkpoint(labels, dict(real["unet"].config))
    assert {("unet", place): found[id(tensor)] for place, tensor in unet.items()} == {
        piece.place: name for name, (piece, *_) in ours.items() if piece.component == "unet"
    }
    vae = convert_ldm_vae_checkpoint(labels, dict(real["vae"].config))
    assert {("vae", place): tuple(tensor.shape) for place, tensor in vae.items()} == {
        piece.place: piece.stored.shape for (piece, *_) in ours.values() if piece.component == "vae"
    }


def test_the_real_checkpoint_is_accepted_and_fits(
    real: dict[str, Any], real_file: Path, tmp_path: Path
) -> None:
    """The checks must accept the real SDXL, not only the files that the tests write."""
    configs = tmp_path / "configs"
    for component, module in real.items():
        save = module.config.save_pretrained if component.startswith("text") else module.save_config
        save(configs / component)
    check_single_file(real_file)
    check_fits(real_file, configs)


def test_a_smaller_relative_is_refused_before_it_is_loaded(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """SSD-1B and similar models are SDXL with blocks left out, and look like it at first sight."""
    tensors = original_tensors(checkpoint(4))
    kept = {name: t for name, t in tensors.items() if ".transformer_blocks.1." not in name}
    save_file(kept, tmp_path / "small.safetensors")
    with pytest.raises(
        ModelError, match=r"it lacks \d+ of the \d+ tensors of SDXL's unet, first .*blocks\.1"
    ):
        check_fits(tmp_path / "small.safetensors", checkpoint(9))
    wide = {n: torch.cat([t, t]) if n.endswith("out.2.bias") else t for n, t in tensors.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match=r"unet: conv_out\.bias has the shape \(8,\) where SDXL has \(4,\)"):
        check_fits(tmp_path / "wide.safetensors", checkpoint(9))


@pytest.mark.parametrize("part", ["output_blocks", "decoder.conv_in.bias", "ln_final.bias"])
def test_loading_names_the_tensors_that_a_single_file_lacks(
    part: str, checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """The loaders' own error is about meta tensors, and for a text encoder it comes only in use."""
    tensors = original_tensors(checkpoint(4))
    del tensors[next(name for name in tensors if part in name)]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="it lacks 1 of the"):
        as_diffusers_loads(tmp_path / "x.safetensors", checkpoint(9))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "F3"}, "w is of the unknown type 'F3'"),
        ({"dtype": None}, "describes 'w' wrongly"),
        ({"shape": "4"}, "describes 'w' wrongly"),
        ({"shape": [-4]}, "describes 'w' wrongly"),
        ({"shape": [3]}, "describes 'w' wrongly"),
        ({"shape": [True, 4]}, "describes 'w' wrongly"),
        ({"data_offsets": [-8, 8]}, "describes 'w' wrongly"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    """A crafted file cannot make the merger read or allocate memory beyond the file."""
    header = {"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8], **change}}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ModelError, match=words):
        read_layout(path)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.x",
        "model.diffusion_model.middle_block.x.y",
        f"model.diffusion_model.input_blocks.{'9' * 5000}.0.op.weight",
        f"first_stage_model.decoder.up.{'9' * 5000}.block.0.x",
        "first_stage_model.decoder.mid.block_x.y",
        "first_stage_model.encoder",
        "conditioner.embedders.1.model.transformer.resblocks.x.y",
        "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight",
        "",
    ],
)
def test_odd_names_are_no_error(name: str, tmp_path: Path) -> None:
    """A stranger's file may hold any names."""
    stored = Stored(tmp_path / "x", "F16", (), 0)
    assert set(pieces_of_file({name: stored})) == {name}


def test_a_written_header_is_read_by_safetensors(tmp_path: Path) -> None:
    """Other programs must be able to open the files that we write."""
    save_file({"a": torch.ones(3, dtype=torch.float16), "b": torch.ones(2, 2)}, tmp_path / "in.safetensors")
    layout = read_layout(tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    out.write_bytes(header_of(layout, {"x": "y"}) + b"".join(b"".join(s.data()) for s in layout.values()))
    assert {name: tensor.tolist() for name, tensor in load_file(out).items()} == {
        "a": [1, 1, 1],
        "b": [[1, 1], [1, 1]],
    }
