"""Fetching against a real loopback hub: a verified folder or a clear error, never a half folder."""

import errno
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from inpaint.errors import FetchError, InpaintError, ModelError
from inpaint.weights import Entry, fetch, verify
from inpaint.weights.download import disk_errors
from inpaint.weights.fetch import part_name
from inpaint.weights.verify import STAMP_NAME, read_stamp
from tests.support.hub import Hub, serve

BIG = "unet/diffusion_pytorch_model.safetensors"
SMALL = "model_index.json"
BODY = bytes(range(256)) * 4096  # 1 MiB: several reads of the client
FILES = {SMALL: b'{"a": 1}', "empty.txt": b"", BIG: BODY, "vae/x.safetensors": b"v" * 1000}
CHILD = """
import json, resource, sys
from pathlib import Path
from inpaint.errors import InpaintError
from inpaint.weights import fetch, parse_lock
lock, root, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    fetch(parse_lock(Path(lock).read_text()).entries[0], Path(root))
except InpaintError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub.utils import close_session

    with serve(FILES) as hub:
        close_session()
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        # Read once when huggingface_hub is imported, which another test may have done with the hub off.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("inpaint.weights.download._PAUSE_S", 0.0)
        yield hub
        close_session()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@dataclass
class Child:
    """A fetch in its own process, with the environment of the test."""

    process: subprocess.Popen[bytes]
    stderr: Path

    def wait(self) -> int:
        return self.process.wait(30)


@contextmanager
def spawn(entry: Entry, root: Path, limit_bytes: int = 0) -> Iterator[Child]:
    lock, output = tempfile.mkstemp(dir=root.parent)[1], Path(tempfile.mkstemp(dir=root.parent)[1])
    Path(lock).write_text(lock_text(entry))
    with output.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, lock, str(root), str(limit_bytes)], stderr=stderr
        )
    try:
        yield Child(process, output)
    finally:
        process.kill()
        process.wait()


def lock_text(entry: Entry) -> str:
    assert entry.source is not None
    fields = {
        "name": entry.name,
        "target": entry.target,
        "sources": [{"uri": entry.source.uri, "fingerprint": entry.source.fingerprint}],
        "license": entry.license,
        "licenseUrl": entry.license_url,
        "size": entry.size,
        "files": [{"path": f.path, "size": f.size, "digest": f.digest} for f in entry.files],
    }
    return json.dumps({"version": 1, "weights": [fields]})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.005)


def part_of(entry: Entry, root: Path, path: str = BIG) -> Path:
    file = next(file for file in entry.files if file.path == path)
    return root / f".{entry.target}.partial" / part_name(file)


def assert_whole(entry: Entry, root: Path) -> None:
    """Check that the folder is complete, verified and stamped, and that no staging folder is left."""
    folder = root / entry.target
    verify(entry, folder, deep=True)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        **FILES,
        STAMP_NAME: (folder / STAMP_NAME).read_bytes(),
    }
    stamp = read_stamp(folder)
    assert stamp is not None
    assert not stamp.imported
    assert {path.name for path in root.iterdir()} == {entry.target, f".{entry.target}.lock"}


def test_a_fetch_gives_a_verified_folder(hub: Hub, root: Path) -> None:
    """A newcomer on a good connection gets every file once, and progress up to the last byte."""
    entry = hub.entry()
    seen: list[tuple[str, int, int]] = []
    assert fetch(entry, root, lambda *step: seen.append(step)) == root / "tiny"
    assert_whole(entry, root)
    assert [get.path for get in hub.gets] == [SMALL, BIG, "vae/x.safetensors"]
    assert all(get.range is None for get in hub.gets)
    assert seen[-1] == ("vae/x.safetensors", entry.size, entry.size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_fetched_model_is_not_fetched_again(hub: Hub, root: Path) -> None:
    """Running the command twice costs no traffic."""
    entry = hub.entry()
    fetch(entry, root)
    asked = len(hub.gets), len(hub.heads)
    fetch(entry, root)
    assert (len(hub.gets), len(hub.heads)) == asked


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of a gated mirror can fetch, and the storage behind it never sees the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(hub.entry(), root)
    assert hub.gets_of(SMALL)[0].authorization == "Bearer hf_secret"
    assert hub.gets_of(BIG)[0].authorization is None


@pytest.mark.parametrize("path", [SMALL, BIG])
def test_a_flipped_byte_is_fetched_once_more(hub: Hub, root: Path, path: str) -> None:
    """One bad transfer is repaired without the user."""
    entry, body = hub.entry(), FILES[path]
    hub.swaps[path] = [bytes([body[0] ^ 1]) + body[1:]]
    fetch(entry, root)
    assert_whole(entry, root)
    assert len(hub.gets_of(path)) == 2


def test_a_byte_that_stays_flipped_is_refused(hub: Hub, root: Path) -> None:
    """Other bytes from a hub or mirror are never installed, and the error names both digests."""
    entry, body = hub.entry(), BODY
    hub.swaps[BIG] = [body[:-1] + b"?"] * 2
    with pytest.raises(ModelError, match=f"{BIG} arrived twice with sha256 [0-9a-f]{{64}} instead of"):
        fetch(entry, root)
    assert not (root / "tiny").exists()
    assert len(hub.gets_of(BIG)) == 2
    fetch(entry, root)  # the bad bytes were not kept
    assert_whole(entry, root)


@pytest.mark.parametrize(
    ("change", "what"),
    [(lambda body: body[:-1], "bytes instead of"), (lambda body: body + b"x", "bytes instead of")],
    ids=["shorter", "longer"],
)
@pytest.mark.parametrize("honest", [True, False])
def test_a_file_of_another_size_is_refused(
    hub: Hub, root: Path, change: Callable[[bytes], bytes], what: str, *, honest: bool
) -> None:
    """A truncated or padded file on the hub is named with both sizes."""
    entry = hub.entry()
    hub.files[BIG] = change(BODY)
    hub.honest_headers = honest
    with pytest.raises(ModelError, match=f"{BIG} .*{what} {len(BODY)}"):
        fetch(entry, root)
    assert not (root / "tiny").exists()
    assert len(hub.gets) == (0 if honest else 3 - 1)  # an honest hub is refused before the first byte


@pytest.mark.parametrize(
    ("body", "what"),
    [(BODY[:-1], f"ends after {len(BODY) - 1} bytes"), (BODY + b"x", f"goes on after its {len(BODY)} bytes")],
    ids=["shorter", "longer"],
)
def test_a_wrong_size_that_is_not_announced_is_refused(hub: Hub, root: Path, body: bytes, what: str) -> None:
    """A server that sends no lengths cannot pass a cut file off as whole, nor fill the disk."""
    entry = hub.entry()
    hub.files[BIG] = body
    hub.honest_headers = hub.announce_length = False
    with pytest.raises(ModelError, match=f"{BIG} {what}"):
        fetch(entry, root)
    assert not (root / "tiny").exists()


def test_another_range_than_asked_for_is_not_appended(hub: Hub, root: Path) -> None:
    """A misbehaving proxy cannot make a file with a gap, and the good bytes are kept."""
    entry = hub.entry()
    hub.cuts[BIG] = [300_000]
    hub.range_shift = 10
    with pytest.raises(FetchError, match="answered with another part"):
        fetch(entry, root)
    assert part_of(entry, root).read_bytes() == BODY[:300_000]


@pytest.mark.parametrize("status", [403, 500])
def test_an_error_of_the_cdn_does_not_show_its_signature(hub: Hub, root: Path, status: int) -> None:
    """A signed address in a log would let its reader fetch with the user's rights."""
    hub.cdn_status = status
    with pytest.raises(FetchError, match=str(status)) as caught:
        fetch(hub.entry(), root)
    assert "secret" not in str(caught.value)


def test_other_bytes_of_the_same_size_are_refused_before_the_first(hub: Hub, root: Path) -> None:
    """A wrong row of the lock fails immediately and not after five gigabytes."""
    entry = hub.entry()
    hub.files[BIG] = BODY[:-1] + b"?"
    with pytest.raises(ModelError, match=f"{BIG} is offered with sha256"):
        fetch(entry, root)
    assert hub.gets == []


def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, root: Path) -> None:
    """On a bad connection no byte is fetched twice."""
    entry = hub.entry()
    hub.cuts[BIG] = [300_000, 400_000]
    fetch(entry, root)
    assert_whole(entry, root)
    gets = hub.gets_of(BIG)
    assert [get.range for get in gets] == [None, "bytes=300000-", "bytes=700000-"]
    assert sum(get.sent for get in gets) == len(BODY)


def test_a_server_without_ranges_is_started_over(hub: Hub, root: Path) -> None:
    """A plain mirror that ignores Range cannot make a file of two beginnings."""
    entry = hub.entry()
    hub.ranges = False
    hub.cuts[BIG] = [300_000]
    fetch(entry, root)
    assert_whole(entry, root)
    assert [get.sent for get in hub.gets_of(BIG)] == [300_000, len(BODY)]


def test_a_connection_that_keeps_breaking_is_given_up_and_continued_later(hub: Hub, root: Path) -> None:
    """The error says to run the same command again, and doing so continues."""
    entry = hub.entry()
    hub.cuts[BIG] = [300_000, 0, 0, 0]
    with pytest.raises(FetchError, match=r"stopped arriving.*run the same command again: it continues"):
        fetch(entry, root)
    assert not (root / "tiny").exists()
    assert part_of(entry, root).stat().st_size == 300_000
    fetch(entry, root)
    assert_whole(entry, root)
    assert hub.gets_of(BIG)[-1].range == "bytes=300000-"
    assert len(hub.gets_of(SMALL)) == 1  # finished files are kept


def test_a_killed_fetch_is_resumed_by_a_new_process(hub: Hub, root: Path) -> None:
    """After SIGKILL (or a power cut) the next run asks only for what is missing."""
    entry = hub.entry()
    hub.holds[BIG] = 500_000
    part = part_of(entry, root)
    with spawn(entry, root) as child:
        wait_for(lambda: part.exists() and part.stat().st_size == 500_000)
        child.process.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (root / "tiny").exists()
    hub.release.set()
    with spawn(entry, root) as again:
        assert again.wait() == 0, again.stderr.read_text()
    assert_whole(entry, root)
    assert hub.gets_of(BIG)[-1].range == "bytes=500000-"
    assert hub.gets_of(BIG)[-1].sent == len(BODY) - 500_000


def test_an_interrupt_leaves_what_was_fetched(hub: Hub, root: Path) -> None:
    """After Ctrl-C the next run resumes."""
    entry = hub.entry()

    def interrupt(path: str, done: int, _total: int) -> None:
        if path == BIG and done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(entry, root, interrupt)
    there = part_of(entry, root).stat().st_size
    assert there > 0
    fetch(entry, root)
    assert_whole(entry, root)
    assert hub.gets_of(BIG)[-1].range == f"bytes={there}-"


@pytest.mark.parametrize(("length", "ranges"), [(1000, ["bytes=1000-", None]), (len(BODY) + 1, [None])])
def test_a_part_that_was_altered_meanwhile_is_fetched_anew(
    hub: Hub, root: Path, length: int, ranges: list[str | None]
) -> None:
    """Damage to an unfinished download is found by its digest and repaired in the same run."""
    entry = hub.entry()
    part = part_of(entry, root)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * length)
    fetch(entry, root)
    assert_whole(entry, root)
    assert [get.range for get in hub.gets_of(BIG)] == ranges


def test_two_simultaneous_fetches_download_once(hub: Hub, root: Path) -> None:
    """Two workers that start together share one download: the second waits, then finds it verified."""
    entry = hub.entry()
    hub.holds[BIG] = 500_000
    with spawn(entry, root) as one, spawn(entry, root) as other:
        wait_for(
            lambda: "another process is writing tiny" in one.stderr.read_text() + other.stderr.read_text()
        )
        hub.release.set()
        assert [one.wait(), other.wait()] == [0, 0]
    assert_whole(entry, root)
    assert [get.sent for get in hub.gets_of(BIG)] == [len(BODY)]


def test_a_revision_that_is_gone_is_named(hub: Hub, root: Path) -> None:
    """The hub's 404 becomes a sentence, and the folder is not made."""
    hub.commit = "f" * 40
    with pytest.raises(FetchError, match=r"the hub has no http.*resolve.* any more"):
        fetch(hub.entry(), root)
    assert not (root / "tiny").exists()


def test_another_revision_than_asked_for_is_refused(hub: Hub, root: Path) -> None:
    """A mirror may answer with its newest revision instead."""
    hub.commit_header = "f" * 40
    with pytest.raises(ModelError, match=f"offered at revision {'f' * 40} instead of"):
        fetch(hub.entry(), root)
    assert hub.gets == []


def test_a_missing_file_is_named(hub: Hub, root: Path) -> None:
    """A repository that lost a file fails before the first byte."""
    entry = hub.entry()
    del hub.files["vae/x.safetensors"]
    with pytest.raises(FetchError, match=r"the hub has no .*vae/x.safetensors"):
        fetch(entry, root)
    assert hub.gets == []


def test_a_hub_that_is_down_is_one_sentence(root: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the newcomer reads what to do, not a traceback."""
    with serve({}) as gone:
        url = gone.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(FetchError, match="run the same command again"):
        fetch(hub.entry(), root)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[", "ftp://127.0.0.1"])
def test_a_bad_mirror_address_is_one_sentence(
    root: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """A typo in HF_ENDPOINT is reported as such."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(FetchError, match="HF_ENDPOINT"):
        fetch(hub.entry(), root)


def test_offline_mode_is_named(root: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who set HF_HUB_OFFLINE sees it in the error."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="unset it"):
        fetch(hub.entry(), root)


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(hub: Hub, root: Path) -> None:
    """A user must not wait for 7 GB to learn that 8 are needed; bytes already there do not count twice."""
    entry = hub.entry()
    with pytest.raises(FetchError, match=r"needs \d+ more bytes .* has 1000000 .* free"):
        fetch(entry, root, free=lambda _: 1_000_000)
    assert hub.gets == []
    hub.cuts[BIG] = [900_000, 0, 0, 0]
    with pytest.raises(FetchError, match="stopped arriving"):
        fetch(entry, root)
    fetch(entry, root, free=lambda _: (1 << 20) + entry.size - 900_000)
    assert_whole(entry, root)


def test_a_disk_that_fills_up_midway_keeps_what_fitted(hub: Hub, root: Path) -> None:
    """The error names the file and the way out; afterwards the download continues."""
    entry = hub.entry()
    with spawn(entry, root, limit_bytes=200_000) as child:
        assert child.wait() == 1
        error = child.stderr.read_text()
    assert error.startswith("FetchError: cannot write ")
    assert "INPAINT_MODELS" in error
    assert not (root / "tiny").exists()
    assert part_of(entry, root).stat().st_size == 200_000
    fetch(entry, root)
    assert_whole(entry, root)
    assert hub.gets_of(BIG)[-1].range == "bytes=200000-"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_is_called_full(tmp_path: Path) -> None:
    """ENOSPC becomes a sentence about space."""
    with (
        pytest.raises(FetchError, match="the disk is full; free some space") as caught,
        disk_errors(tmp_path / "x.part"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_models_folder_that_cannot_be_made_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    """INPAINT_MODELS may point below a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match=r"cannot write .*file"):
        fetch(hub.entry(), tmp_path / "file" / "models")


def test_a_damaged_model_is_repaired_without_its_good_files(hub: Hub, root: Path) -> None:
    """The command that an error recommends fetches one file, not seven gigabytes, and deletes extra files."""
    entry = hub.entry()
    folder = fetch(entry, root)
    (folder / BIG).write_bytes(BODY[:-1] + b"?")
    (folder / "extra.txt").write_text("x")
    before = len(hub.gets)
    fetch(entry, root)
    assert_whole(entry, root)
    assert [get.path for get in hub.gets[before:]] == [BIG]


def test_a_damaged_model_that_cannot_be_repaired_is_not_left_under_its_name(hub: Hub, root: Path) -> None:
    """A model is either whole or absent, even when the repair fails."""
    entry = hub.entry()
    folder = fetch(entry, root)
    (folder / BIG).unlink()
    hub.cuts[BIG] = [0, 0, 0]
    with pytest.raises(InpaintError):
        fetch(entry, root)
    assert not folder.exists()
    fetch(entry, root)
    assert_whole(entry, root)


def test_leftovers_in_the_staging_folder_are_not_installed(hub: Hub, root: Path) -> None:
    """Parts of another version, extra files and links planted in the staging folder do not survive."""
    entry = hub.entry()
    staging = root / ".tiny.partial"
    (staging / "unet").mkdir(parents=True)
    (staging / "evil.py").write_text("x")
    (staging / f"{BIG}.000000000000.part").write_bytes(b"x")
    (staging / SMALL).symlink_to("/etc/passwd")
    fetch(entry, root)
    assert_whole(entry, root)
