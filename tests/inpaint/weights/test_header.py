"""Headers of safetensors files: as long as the format allows, within bounds, and what is in their place."""

import json
from pathlib import Path

import pytest

from inpaint.errors import ModelError
from inpaint.weights import check_safetensors, import_model
from tests.support.checkpoint_files import safetensors, sdxl_tensors

MB = 1_000_000


def write(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


# Metadata of real files that is long: what it is, and its characters.
LONG: dict[str, str] = {
    "captions of 12 MB": "x" * 12 * MB,
    "tags as JSON in JSON": json.dumps({"tags": {f'tag "{i}"\\': i for i in range(500_000)}}),
    "brackets in a workflow": "[{}]," * 3 * MB,
    "quotes": '"' * 6 * MB,
    "backslashes": "\\" * 6 * MB,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_long_header_of_texts_is_read(text: str, tmp_path: Path) -> None:
    """F20: kohya writes every caption into a file, ComfyUI the whole workflow; 10 MB were refused."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(sdxl_tensors(), {"ss_tag_frequency": text}))
    assert int.from_bytes(path.read_bytes()[:8], "little") > 10 * MB
    header = check_safetensors(path)
    assert header["__metadata__"]["ss_tag_frequency"] == text
    import_model(path, "mine", tmp_path / "models")


BOMBS: dict[str, bytes] = {
    "lists": b"[" + b"[]," * 4 * MB + b"[]]",
    "empty texts": b"[" + b'"",' * 4 * MB + b'""]',
    "numbers": b"[" + b"1," * 6 * MB + b"1]",
    "objects": b"{" * 11 * MB,
    "after a long text": b'{"a":"' + b"x" * 2 * MB + b'","b":[' + b"[]," * 4 * MB + b"[]]}",
}


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_a_header_that_would_take_the_memory_is_refused(header: bytes, tmp_path: Path) -> None:
    """An empty list is 3 bytes in a file and 64 in memory: it is refused before it is parsed."""
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(ModelError, match="describes more tensors than any model has"):
        check_safetensors(path)


def test_a_header_above_the_formats_limit_is_one_sentence(tmp_path: Path) -> None:
    """The file is not blamed for being cut off."""
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((120 * MB).to_bytes(8, "little"))
        file.truncate(130 * MB)  # sparse
    with pytest.raises(ModelError, match="its header has 120 MB, where safetensors allows 100"):
        check_safetensors(path)
    path.write_bytes((120 * MB).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="not a safetensors file, or it is truncated"):
        check_safetensors(path)


PLACEHOLDERS: dict[str, tuple[bytes, str]] = {
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6938040682\n",
        "it is a Git LFS pointer, not the file that it stands for; fetch that with: git lfs pull",
    ),
    "a login page": (b"<!DOCTYPE html><html><title>Sign in", "it is a web page, not the file"),
    "a page": (b"<html>\n<head>", "it is a web page, not the file"),
    "a site's error": (b'{"error":"Unauthorized"}', "it is a server's error message, not the file"),
}


@pytest.mark.parametrize(("body", "words"), PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_what_a_failed_download_left_is_named(body: bytes, words: str, tmp_path: Path) -> None:
    """huggingface/diffusers#3960, Fooocus#3399: HeaderTooLarge, where a page was saved as a model."""
    (tmp_path / "x.safetensors").write_bytes(body)
    with pytest.raises(ModelError, match=rf"x\.safetensors: {words}"):
        import_model(tmp_path / "x.safetensors", "mine", tmp_path / "models")


GOOD = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
WRONG: dict[str, tuple[dict[str, object], str]] = {
    # what a header that was damaged or made up says; the first three were found by fuzzing
    "a text in a shape": ({"w": {**GOOD, "shape": ["", 8]}}, "describes 'w' wrongly"),
    "an object in a shape": ({"w": {**GOOD, "shape": [{"x": 8}, 2]}}, "describes 'w' wrongly"),
    "more elements than bits": ({"w": {**GOOD, "shape": [10**50, 2]}}, "describes 'w' wrongly"),
    "no shape": ({"w": {"dtype": "U8", "data_offsets": [0, 4]}}, "describes 'w' wrongly"),
    "a negative side": ({"w": {**GOOD, "shape": [-4]}}, "describes 'w' wrongly"),
    "a fraction": ({"w": {**GOOD, "shape": [4.0]}}, "describes 'w' wrongly"),
    "a shape that is no list": ({"w": {**GOOD, "shape": 4}}, "describes 'w' wrongly"),
    "a dtype that is no text": ({"w": {**GOOD, "dtype": 8}}, "describes 'w' wrongly"),
    "offsets before the start": ({"w": {**GOOD, "data_offsets": [-4, 4]}}, "describes 'w' wrongly"),
    "three offsets": ({"w": {**GOOD, "data_offsets": [0, 4, 4]}}, "describes 'w' wrongly"),
    "a number as a tensor": ({"w": 4}, "describes 'w' wrongly"),
    "metadata that is a list": ({"__metadata__": ["x"], "w": GOOD}, "the metadata in its .* is not text"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "w": GOOD}, "the metadata in its .* is not text"),
    "metadata of lists": ({"__metadata__": {"a": ["b"]}, "w": GOOD}, "the metadata in its .* is not text"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_header_that_says_nonsense_is_refused(what: str, tmp_path: Path) -> None:
    """Here, so that every user of a header finds numbers in it."""
    header, says = WRONG[what]
    path = write(tmp_path / "x.safetensors", json.dumps(header).encode(), bytes(4))
    with pytest.raises(ModelError, match=says):
        check_safetensors(path)
    assert check_safetensors(write(path, json.dumps({"w": GOOD}).encode(), bytes(4)))
