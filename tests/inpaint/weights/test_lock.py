"""Parsing of weights.lock: the files that it pins, and the rules that it enforces."""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inpaint.errors import LockError
from inpaint.weights import Entry, load_lock, parse_lock, sha256sums

DIGEST = "sha256:" + "ab" * 32
GOOD: dict[str, Any] = {
    "version": 1,
    "weights": [
        {
            "name": "tiny",
            "target": "tiny",
            "sources": [{"uri": "hf://someone/tiny", "fingerprint": "commit:" + "0" * 40}],
            "license": "MIT",
            "licenseUrl": "https://example.org/licence",
            "size": 3,
            "files": [
                {"path": "a.json", "size": 1, "digest": DIGEST},
                {"path": "unet/b.safetensors", "size": 2, "digest": DIGEST},
            ],
        }
    ],
}


def entry_with(**fields: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document["weights"][0].update(fields)
    return document


def file_with(**fields: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document["weights"][0]["files"][0].update(fields)
    return document


def source_with(**fields: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document["weights"][0]["sources"][0].update(fields)
    return document


def without(key: str) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    del document["weights"][0][key]
    return document


def twice(**fields: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document["weights"].append({**copy.deepcopy(GOOD["weights"][0]), **fields})
    return document


ROW = GOOD["weights"][0]["files"][0]
REFUSED: dict[str, tuple[Any, str]] = {
    "another version": ({**GOOD, "version": 2}, "version must be 1"),
    "a boolean version": ({**GOOD, "version": True}, "version must be 1"),
    "a list": ([], "expected an object"),
    "weights of another kind": ({**GOOD, "weights": {}}, "weights must be a list"),
    "an unknown key": ({**GOOD, "extra": 1}, "unknown key 'extra'"),
    "an unknown key of an entry": (entry_with(dest="x"), "'tiny': unknown key 'dest'"),
    "an unknown key of a file": (file_with(mode=7), "'tiny': unknown key 'mode'"),
    "a symlink": (file_with(link="../x"), "'tiny': unknown key 'link'"),
    "an unknown key of a source": (source_with(branch="main"), "'tiny': unknown key 'branch'"),
    "a missing key": (without("licenseUrl"), "'tiny': the key 'licenseUrl' is missing"),
    "an empty license": (entry_with(license=""), "license must be a string"),
    "a license link of another kind": (entry_with(licenseUrl="javascript:x"), "licenseUrl must start"),
    "a duplicate name": (twice(target="other"), "name 'tiny' appears twice"),
    "a duplicate target": (twice(name="other"), "target 'tiny' appears twice"),
    "a name with a slash": (entry_with(name="a/b"), "name must be lower-case"),
    "a hidden target": (entry_with(target=".tiny"), "target must be lower-case"),
    "a target outside": (entry_with(target=".."), "target must be lower-case"),
    "an absolute target": (entry_with(target="/etc"), "target must be lower-case"),
    "two sources": (entry_with(sources=2 * GOOD["weights"][0]["sources"]), "at most one source, not 2"),
    "a source elsewhere": (source_with(uri="https://example.org/x"), "uri must be hf://"),
    "a source that climbs": (source_with(uri="hf://someone/.."), "uri must be hf://"),
    "a branch": (source_with(fingerprint="main"), "fingerprint must be commit: and 40"),
    "a short commit": (source_with(fingerprint="commit:" + "0" * 39), "fingerprint must be commit: and 40"),
    "no files": (entry_with(files=[], size=0), "files must not be empty"),
    "a wrong sum": (entry_with(size=4), "size must be the sum of its files, 3, not 4"),
    "a negative size": (file_with(size=-1), "a.json: size must be a whole number"),
    "a boolean size": (file_with(size=True), "a.json: size must be a whole number"),
    "a fractional size": (file_with(size=1.0), "a.json: size must be a whole number"),
    "a bare digest": (file_with(digest="ab" * 32), "digest must be sha256:"),
    "another digest": (file_with(digest="md5:" + "ab" * 16), "digest must be sha256:"),
    "an upper-case digest": (file_with(digest="sha256:" + "AB" * 32), "digest must be sha256:"),
    "unsorted files": (entry_with(files=GOOD["weights"][0]["files"][::-1]), "sorted by path"),
    "a path twice": (entry_with(files=[ROW, ROW], size=2), "path 'a.json' appears twice"),
    "a path twice but for case": (
        entry_with(files=[{**ROW, "path": "A.json"}, ROW], size=2),
        "path 'a.json' appears twice",
    ),
    "a file that is a folder": (
        entry_with(files=[{**ROW, "path": "a"}, {**ROW, "path": "a/b"}], size=2),
        "'a' is both a file and a folder",
    ),
    "an absolute path": (file_with(path="/a.json"), "is absolute"),
    "a drive": (file_with(path="C:a.json"), "is absolute"),
    "a path that climbs": (file_with(path="a/../../b"), "starts with a dot"),
    "a dot": (file_with(path="./a"), "starts with a dot"),
    "the stamp's own name": (file_with(path=".inpaint-stamp.json"), "starts with a dot"),
    "an empty part": (file_with(path="a//b"), "empty part"),
    "a backslash": (file_with(path="a\\b"), "backslash"),
    "a line break": (file_with(path="a\nb"), "control character"),
    "a NUL": (file_with(path="a\0b"), "control character"),
    "an empty path": (file_with(path=""), "path must be a string"),
    "a pickle": (file_with(path="a.bin"), "code or a pickle"),
    "code": (file_with(path="a.PY"), "code or a pickle"),
}


@pytest.mark.parametrize(("document", "rule"), REFUSED.values(), ids=REFUSED)
def test_a_lock_that_breaks_a_rule_is_refused(document: object, rule: str) -> None:
    """An operator whose lock was altered learns which entry and rule, before anything is fetched."""
    with pytest.raises(LockError, match=r"^weights\.lock, .+: ") as caught:
        parse_lock(json.dumps(document))
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "\ufeff{}", '{"version": 1, "version": 1, "weights": []}', "[" * 100_000],
    ids=["empty", "cut", "bom", "duplicate key", "deep"],
)
def test_a_lock_that_is_no_json_is_refused(text: str) -> None:
    """A half-written lock is named as such, not as a traceback."""
    with pytest.raises(LockError, match="not valid JSON"):
        parse_lock(text)


def test_a_good_lock_is_read() -> None:
    """Every field of the format is read."""
    entry = parse_lock(json.dumps(GOOD)).get("tiny")
    assert entry is not None
    assert entry.source is not None
    assert (entry.source.repo, entry.source.commit) == ("someone/tiny", "0" * 40)
    assert [(file.path, file.size, file.sha256) for file in entry.files] == [
        ("a.json", 1, "ab" * 32),
        ("unet/b.safetensors", 2, "ab" * 32),
    ]


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("sdxl-inpainting", 18, 6_941_218_469),
        ("sdxl-configs", 14, 3_176_820),
        ("sdxl-base", 1, 6_938_078_334),
        ("sdxl-vae-fp16-fix", 1, 334_643_238),
        ("lcm-lora-sdxl", 1, 393_855_224),
        ("sdxl-lightning-4step-lora", 1, 393_854_592),
        ("sam2-tiny", 2, 155_913_759),
        ("sam2-small", 2, 184_310_978),
    ],
)
def test_our_lock_pins_every_file(name: str, count: int, size: int) -> None:
    """A user who fetches a model gets exactly the pinned files."""
    entry = load_lock().get(name)
    assert entry is not None
    assert (len(entry.files), entry.size, sum(file.size for file in entry.files)) == (count, size, size)


def test_the_configs_are_the_models_own_small_files() -> None:
    """A single-file checkpoint loads with exactly the configurations of the pinned model."""
    lock = load_lock()
    model, configs = lock.get("sdxl-inpainting"), lock.get("sdxl-configs")
    assert model is not None
    assert configs is not None
    small = tuple(file for file in model.files if not file.path.endswith(".safetensors"))
    assert (configs.source, configs.files) == (model.source, small)


def test_checksums_are_what_sha256sum_reads(tmp_path: Path) -> None:
    """An air-gapped operator checks a copied folder with plain `sha256sum -c`."""
    body = b"weights"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "b.safetensors").write_bytes(body)
    row = {
        "path": "unet/b.safetensors",
        "size": len(body),
        "digest": f"sha256:{hashlib.sha256(body).hexdigest()}",
    }
    entry: Entry = parse_lock(json.dumps(entry_with(files=[row], size=len(body)))).entries[0]
    (tmp_path / "SHA256SUMS").write_text(sha256sums(entry))
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"Weights")
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0


def test_importing_weights_loads_nothing_heavy() -> None:
    """`inpaint --help` answers immediately: it loads no torch, no diffusers and no hub client."""
    code = (
        "import sys, inpaint.weights, inpaint.cli.models;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'huggingface_hub', 'httpx2', 'filelock')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_model_of_the_lock_can_be_fetched() -> None:
    """An entry without a source could not be fetched; only files in the package may have none."""
    assert all(entry.source is not None for entry in load_lock().entries)
