"""Names of LoRAs: what files they find, and what no name can do."""

from pathlib import Path

import pytest

from inpaint.errors import ModelError, RequestError
from inpaint.lora.files import available_loras, canonical, checked, find_lora, unusable_loras
from inpaint.lora.lookup import choose, search
from inpaint.lora.spec import MAX_NAME, LoraUse, parse_loras
from tests.support.checkpoint_files import safetensors

LORA = safetensors({"a.lora_A.weight": [4]})
COMMAS = "Add More Details - Detail Enhancer, Tweaker v1.0"  # of the report that asked for commas


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder such as people have: subfolders, commas, accents, other programs' files."""
    names = (
        "plain",
        COMMAS,
        "v1.5 dots",
        "ünïcödé 红",
        "apostrophe's (x) [y]",
        "sub/insub",
        "sub/same",
        "other/same",
    )
    for name in (*names, "sub/deep/Deeper", "top", "sub/top"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LORA)
    return tmp_path


FOUND = {
    # what a request says: the file below the folder
    "plain": "plain",
    "PLAIN": "plain",
    "plain.safetensors": "plain",
    "Plain.SafeTensors": "plain",
    COMMAS: COMMAS,
    COMMAS.lower(): COMMAS,
    "v1.5 dots": "v1.5 dots",
    "V1.5 Dots.safetensors": "v1.5 dots",
    "ÜNÏCÖDÉ 红": "ünïcödé 红",
    "u\u0308ni\u0308co\u0308de\u0301 红": "ünïcödé 红",
    "apostrophe's (x) [y]": "apostrophe's (x) [y]",
    "insub": "sub/insub",
    "sub/insub": "sub/insub",
    "SUB/InSub.safetensors": "sub/insub",
    "deeper": "sub/deep/Deeper",
    "deep/deeper": "sub/deep/Deeper",
    "sub/same": "sub/same",
    "other/same": "other/same",
    "top": "top",
    "sub/top": "sub/top",
}


@pytest.mark.parametrize("asked", FOUND)
def test_a_name_finds_its_file(asked: str, folder: Path) -> None:
    """Folders may be left out, and letter case, accents' encoding and the ending do not matter."""
    found = find_lora(asked, folder)
    assert (found.name, found.path) == (FOUND[asked], folder / f"{FOUND[asked]}.safetensors")
    assert canonical([LoraUse(asked, 0.5)], folder) == (LoraUse(FOUND[asked], 0.5),)


def test_exact_letters_win_over_others(folder: Path) -> None:
    """Two files whose names differ in case alone can both be named."""
    (folder / "PLAIN.safetensors").write_bytes(LORA)
    assert find_lora("PLAIN", folder).path.name == "PLAIN.safetensors"
    assert find_lora("plain", folder).path.name == "plain.safetensors"
    with pytest.raises(RequestError, match="'Plain' may be PLAIN or plain; name one of these"):
        find_lora("Plain", folder)


@pytest.mark.parametrize("asked", ["same", "SAME", "same.safetensors"])
def test_several_files_of_one_name_are_told_apart_by_their_folders(asked: str, folder: Path) -> None:
    """The sentence has the spelling that works."""
    with pytest.raises(RequestError, match="may be other/same or sub/same; name one of these"):
        find_lora(asked, folder)


NOWHERE = ("../plain", "sub/../plain", "/plain", "./plain", "sub//insub", "sub\\insub", "~/plain", "", ".",
"..", "b/insub",
           "ub/insub", "%2e%2e/plain", "plain\0", "*", "plai?", "[p]lain")  # fmt: skip


@pytest.mark.parametrize("asked", NOWHERE)
def test_no_name_is_a_path(asked: str, folder: Path) -> None:
    """A name is compared with what a search has found, so it leads nowhere else."""
    inside = folder / "loras"
    inside.mkdir()
    (folder / "sub").rename(inside / "sub")
    with pytest.raises(RequestError, match="there is no LoRA"):
        find_lora(asked, inside)


def test_the_spellings_of_one_lora_are_one_lora(folder: Path) -> None:
    """Their scales add up, and the limit holds for the sum: no spelling is a way around it."""
    uses = [LoraUse("plain", 1.0), LoraUse("PLAIN", 0.5), LoraUse("insub", 1.0)]
    assert canonical(uses, folder) == (LoraUse("plain", 1.5), LoraUse("sub/insub", 1.0))
    with pytest.raises(
        RequestError, match=r"the scale of the LoRA plain must be a number from -4 to 4, not 5\.0"
    ):
        canonical([LoraUse("plain", 3.0), LoraUse("Plain", 2.0)], folder)


@pytest.mark.parametrize(
    "notation",
    [[{"name": COMMAS, "scale": 0.8}], [f"{COMMAS}:0.8"], [[COMMAS, 0.8]]],
    ids=["objects", "texts", "pairs"],
)
def test_a_name_with_a_comma_is_named_in_a_list(notation: object, folder: Path) -> None:
    """Commas divide text, and nothing else."""
    assert canonical(parse_loras(notation), folder) == (LoraUse(COMMAS, 0.8),)


def test_in_text_the_comma_divides_and_the_error_says_what_to_write(folder: Path) -> None:
    """Who pastes the name into a form learns the notation that works."""
    with pytest.raises(RequestError, match=r"must be in a list, or in the prompt as <lora:Add More .*:1>"):
        canonical(parse_loras(f"{COMMAS}:0.8"), folder)


UNUSABLE = {
    # file: why no request can use it
    ".hidden.safetensors": "it is hidden: its name begins with a dot",
    "sub/.hidden.safetensors": "it is hidden",
    "old.pt": "it is a pickle, which may run a program; bring it as .safetensors",
    "old.ckpt": "it is a pickle",
    "pytorch_lora_weights.bin": "it is a pickle",
    "style.sft": "it must be renamed: its name must end with .safetensors",
    "a:b.safetensors": "its name holds :, which no request can name; rename it",
    "a<b.safetensors": "its name holds <",
    "a\\b.safetensors": "its name holds \\",
    f"{'x' * (MAX_NAME + 1)}.safetensors": "its name has more than 200 characters",
    " blank.safetensors": "its name holds blanks at its ends",
    "tab\t.safetensors": "its name holds blanks at its ends, or characters that are no text",
    "link.safetensors": "it is no file, or a link to a file that is gone",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_named_is_listed_with_the_reason(name: str, folder: Path) -> None:
    """A file that is missing from a list without a word was downloaded in vain."""
    path = folder / name
    if name.startswith("link"):
        path.symlink_to(folder / "gone")
    else:
        path.write_bytes(LORA)
    before = [file.name for file in available_loras(folder) if file.path != path]
    (found,) = unusable_loras(folder)
    assert found.path == path
    assert found.reason.startswith(UNUSABLE[name])
    assert [file.name for file in available_loras(folder)] == before


DAMAGED = {
    "cut off": (LORA[:-1], "truncated"),
    "empty": (b"", "not a safetensors file"),
    "a pickle under another name": (b"PK\x03\x04 zip", "it is a pickle under a safetensors name"),
    "a web page": (b"<!DOCTYPE html><html>" * 9, "it is a web page"),
    "no tensors": ((2).to_bytes(8, "little") + b"{}", "it holds no tensors"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_header_that_cannot_be_read_is_a_reason(what: str, folder: Path) -> None:
    """The sentence has the file's name without the operator's folders."""
    content, reason = DAMAGED[what]
    (folder / "broken.safetensors").write_bytes(content)
    (found,) = unusable_loras(folder)
    assert found.name == "broken"
    assert reason in found.reason
    assert str(folder) not in found.reason


_DOWN = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FAMILIES: dict[str, tuple[dict[str, list[int]], str]] = {
    "SD 1.5": (
        {f"lora_unet_{_DOWN}.lora_down.weight": [4, 768], f"lora_unet_{_DOWN}.lora_up.weight": [320, 4]},
        "it was made for Stable Diffusion 1",
    ),
    "SD 2": (
        {f"lora_unet_{_DOWN}.lora_down.weight": [4, 1024], f"lora_unet_{_DOWN}.lora_up.weight": [320, 4]},
        "it was made for Stable Diffusion 2",
    ),
    "Flux": ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": [4, 8]}, "it was made for Flux"),
    "SD 3": (
        {"lora_te3_encoder_block_0_layer_0.lora_down.weight": [4, 8]},
        "it was made for Stable Diffusion 3",
    ),
    "a checkpoint": (
        {"model.diffusion_model.input_blocks.0.0.weight": [8, 9]},
        "it is a checkpoint, not a LoRA",
    ),
    "an embedding": ({"clip_l": [2, 768], "clip_g": [2, 1280]}, "it is a textual inversion"),
    "a VAE": ({"decoder.conv_in.weight": [8, 4]}, "it is a VAE, not a LoRA"),
    "anything": ({"w": [4]}, "it holds no LoRA, and nothing else that is known here"),
}


@pytest.mark.parametrize("what", FAMILIES)
def test_a_file_of_another_family_is_listed_as_what_it_is(what: str, folder: Path) -> None:
    """From its header alone: a list of a thousand files does not read their tensors."""
    shapes, reason = FAMILIES[what]
    (folder / "other.safetensors").write_bytes(safetensors(shapes))
    (found,) = unusable_loras(folder)
    assert (found.name, found.reason[: len(reason)]) == ("other", reason)


@pytest.mark.parametrize(("asked", "file"), [("old", "old.pt"), ("OLD", "old.ckpt"), ("a", "sub/a.sft")])
def test_a_request_for_an_unusable_file_gets_the_reason(asked: str, file: str, folder: Path) -> None:
    """Not that there is no such LoRA: the user sees the file in the folder."""
    (folder / file).write_bytes(LORA)
    with pytest.raises(RequestError, match=f"the LoRA '{asked}' cannot be used: it "):
        find_lora(asked, folder)


@pytest.mark.parametrize(
    "name", ["._plain.safetensors", ".inpaint-0.part", "notes.txt", "preview.png", ".plain.safetensors.pin"]
)
def test_other_files_are_not_mentioned(name: str, folder: Path) -> None:
    """Pins, previews and what macOS adds are no LoRAs."""
    (folder / name).write_bytes(LORA)
    assert unusable_loras(folder) == []


def test_a_file_in_a_subfolder_has_its_pin_beside_it(folder: Path) -> None:
    """Two files of one name in two folders are pinned apart."""
    assert checked(find_lora("sub/same", folder)).state == "pinned"
    assert (folder / "sub" / ".same.safetensors.pin").is_file()
    assert find_lora("other/same", folder).state == "new"


def test_links_in_a_circle_end(folder: Path) -> None:
    """A link to a folder is followed, since people keep styles on another disk, and each folder once."""
    (folder / "sub" / "up").symlink_to(folder)
    elsewhere = folder.parent / f"{folder.name} elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.safetensors").write_bytes(LORA)
    (folder / "linked").symlink_to(elsewhere)
    names = list(search(folder).files)
    assert names.count("sub/insub") == 1
    assert "linked/far" in names
    assert find_lora("far", folder).path == folder / "linked" / "far.safetensors"


def test_a_long_list_shows_the_nearest(folder: Path) -> None:
    """A thousand names would hide the sentence."""
    names = [f"style{n}" for n in range(1000)]
    with pytest.raises(RequestError, match=r"there are style77.* and 980 more") as refused:
        choose("stile77", names)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("what", ["a file", "a broken link"])
def test_a_folder_that_is_none_is_said(what: str, tmp_path: Path) -> None:
    """``--loras style.safetensors`` is an easy mistake; a folder that is missing is an empty one."""
    place = tmp_path / "loras"
    place.write_bytes(LORA) if what == "a file" else place.symlink_to(tmp_path / "gone")
    if what == "a file":
        with pytest.raises(ModelError, match=r"the folder of LoRA files cannot be read \(Not a directory\)"):
            available_loras(place)
    else:
        assert available_loras(place) == []
