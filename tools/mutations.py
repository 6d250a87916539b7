"""Take guards out one at a time and see that a named test fails: ``python -m tools.mutations [NAME ...]``.

Each mutation is made in a copy of the tree below TMPDIR, and the tests named next to it are run there, first
with the guard in its place, since a test that fails anyway says nothing. Prints one line a mutation; ends
with 1 if a guard can be taken out unnoticed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TREE = ("inpaint", "server", "tests", "bench", "tools", "docs", "pyproject.toml", "weights.lock", "README.md")


@dataclass(frozen=True, slots=True)
class Mutation:
    """A guard, the edit that takes it out, and the test that must fail then."""

    guard: str
    path: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "pixel-cap": Mutation(
        "the size in a picture's header is checked before it is decoded",
        "inpaint/images/codec.py",
        "    check_size(field, opened.size)\n",
        "",
        "tests/inpaint/images/test_codec.py::test_size_is_judged_from_the_header_before_any_pixel_is_decoded",
    ),
    "decode-bomb": Mutation(
        "a picture in too many pieces is refused",
        "inpaint/images/codec.py",
        "if is_decode_bomb(data):",
        "if False:",
        "tests/inpaint/images/test_bombs.py",
    ),
    "formats": Mutation(
        "only PNG, JPEG and WebP are opened",
        "inpaint/images/codec.py",
        "Image.open(io.BytesIO(data), formats=FORMATS)",
        "Image.open(io.BytesIO(data))",
        "tests/server/http/test_attacks.py -k bad_picture and tiff",
    ),
    "dark-soft-mask": Mutation(
        "a mask that repaints nothing is refused before it is charged",
        "server/service/pictures.py",
        '        require_mask(mask, soft=bool(order.settings.get("soft")))\n',
        "        pass\n",
        "tests/server/http/test_attacks.py -k mask_without_white or soft_mask_too_dark",
    ),
    "body-cap": Mutation(
        "a body of unknown length is cut at the cap",
        "server/http/body.py",
        "if len(found) > max_bytes:",
        "if False:",
        "tests/server/http/test_body.py::test_a_body_of_unknown_length_is_cut_at_the_cap",
    ),
    "json-values": Mutation(
        "JSON of millions of tiny values is refused before it is parsed",
        "server/http/body.py",
        'if any(body.count(mark) > _MAX_MARKS for mark in (b",", b"[", b"{")):',
        "if False:",
        "tests/server/http/test_body.py::test_millions_of_tiny_values_cost_no_memory",
    ),
    "addresses": Mutation(
        "every address of a host must be public",
        "server/fetch/fetcher.py",
        "if not found or not all(map(self._policy.allows_address, found)):",
        "if not found:",
        "tests/server/fetch/test_fetcher.py::test_a_url_that_leads_inside_is_refused_without_a_connection",
    ),
    "https-to-http": Mutation(
        "a redirect may not leave https",
        "server/fetch/fetcher.py",
        'if (target.url.scheme, next_target.url.scheme) == ("https", "http"):',
        "if False:",
        "tests/server/fetch/test_hosts.py::test_a_redirect_from_https_to_http_is_refused",
    ),
    "owner": Mutation(
        "a key sees its own requests only",
        "server/storage/requests.py",
        "mine = (requests.c.id == _known(request_id), requests.c.key_id == key_id, ~requests.c.expired)",
        "mine = (requests.c.id == _known(request_id), ~requests.c.expired)",
        "tests/server/storage/test_requests.py::test_another_key_cannot_see_a_request",
    ),
    "debit": Mutation(
        "credits are checked in the statement that takes them",
        "server/storage/ledger.py",
        ".where(keys.c.id == key_id, keys.c.balance_micro >= cost_micro)",
        ".where(keys.c.id == key_id)",
        "tests/server/storage/test_ledger.py -k race_for_the_last_credits and sqlite",
    ),
    "begin-immediate": Mutation(
        "a transaction that will write begins as a writer",
        "server/storage/database.py",
        'begin="BEGIN IMMEDIATE"',
        'begin="BEGIN"',
        "tests/server/storage/test_ledger.py -k credits_given_simultaneously and sqlite",
    ),
    "folder-lock": Mutation(
        "one data folder has one server",
        "server/start.py",
        "        lock.acquire(timeout=0)\n",
        "        pass\n",
        "tests/server/cli/test_serve.py::test_a_second_server_on_the_same_folder_is_refused",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MUTATIONS)}; all if none")
    names = parser.parse_args().names or list(MUTATIONS)
    if unknown := set(names) - set(MUTATIONS):
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        for name in TREE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("node_modules"))
            else:
                shutil.copy(source, copy / name)
        unnoticed = [name for name in names if not noticed(copy, name, MUTATIONS[name])]
    if unnoticed:
        sys.exit(f"taken out unnoticed: {', '.join(unnoticed)}")


def noticed(copy: Path, name: str, mutation: Mutation) -> bool:
    """Return whether the named tests pass with the guard and fail without it; the guard is put back."""
    path = copy / mutation.path
    whole = path.read_text("utf-8")
    if whole.count(mutation.old) != 1:
        sys.exit(f"{name}: its guard is not in {mutation.path} as written here; update tools/mutations.py")
    if failed := run(copy, mutation.test):
        sys.exit(f"{name}: {mutation.test} fails with the guard in its place: {failed}")
    path.write_text(whole.replace(mutation.old, mutation.new), "utf-8")
    failed = run(copy, mutation.test)
    path.write_text(whole, "utf-8")
    print(f"{name:<16} {'fails: ' + failed if failed else 'UNNOTICED'}", flush=True)
    return bool(failed)


def run(copy: Path, test: str) -> str:
    """Run tests in the copy; return the first that failed, or an empty string."""
    path, _, choice = test.partition(" -k ")
    words: Sequence[str] = [path, *(["-k", choice] if choice else [])]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (
        failed[0].split(" - ")[0] if failed else f"pytest ended with {done.returncode}: {done.stdout[-500:]}"
    )


if __name__ == "__main__":
    main()
