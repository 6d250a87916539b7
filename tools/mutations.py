"""Take guards out one at a time and see that a named test fails: ``python -m tools.mutations [NAME ...]``.

Each mutation of ``mutations.toml`` is made in a copy of the tree below TMPDIR, and the tests named next to it
are run there, first with the guard in its place, since a test that fails anyway says nothing. Prints one line
a mutation; ends with 1 if a guard can be taken out unnoticed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
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


def load() -> dict[str, Mutation]:
    """Read ``mutations.toml``."""
    found = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return {name: Mutation(**fields) for name, fields in found.items()}


def main() -> None:
    mutations = load()
    parser = argparse.ArgumentParser(prog="python -m tools.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(mutations)}; all if none")
    names = parser.parse_args().names or list(mutations)
    if unknown := set(names) - set(mutations):
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        for name in TREE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("node_modules"))
            else:
                shutil.copy(source, copy / name)
        unnoticed = [name for name in names if not noticed(copy, name, mutations[name])]
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
    env = os.environ | {"PYTHONPATH": str(copy)}  # for the programs that tests start
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return (
        failed[0].split(" - ")[0] if failed else f"pytest ended with {done.returncode}: {done.stdout[-500:]}"
    )


if __name__ == "__main__":
    main()
