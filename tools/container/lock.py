"""Write the image's locks from pyproject.toml and constraints.txt: ``python -m tools.container.lock``.

`docs/deploy/requirements-cuda.txt` locks the server's packages (all extras that one may need), and
`requirements-build.txt` those that build its wheel: exact versions and hashes of the wheels for Linux on
x86_64. Both are resolved once for every Python below, and agree with constraints.txt.

uv resolves them, from metadata alone: it evaluates another Python's markers, which pip does not; it knows
every wheel's hash without fetching 3 GB of them; and it ignores the settings by which pip on a developer's
machine may find a CPU build of torch, which is wrong for an image for GPUs. No index is named: it is uv's
own, or UV_DEFAULT_INDEX's.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deploy"
CONSTRAINTS = ROOT / "constraints.txt"
RUN, BUILD = FOLDER / "requirements-cuda.txt", FOLDER / "requirements-build.txt"

UV = "uv==0.13.8"
PYTHONS = ("3.11", "3.12", "3.13")  # Debian 12, Ubuntu 24.04, Debian 13
PLATFORM = "x86_64-manylinux_2_28"
UNNEEDED = frozenset({"dev", "bench", "mcp"})  # extras that no server needs

_HEAD = """\
# {what}: exact versions, and hashes of the wheels for Linux on x86_64, Python {first} to {last}.
# Written by `python -m tools.container.lock` from pyproject.toml and constraints.txt; do not edit.
# The hashes are those that the package index states; nothing was downloaded to compare. pip compares,
# at each install.
"""


@dataclass(slots=True)
class Locked:
    """A version of a package, with its wheels' hashes and the Pythons that need it."""

    name: str
    version: str
    hashes: set[str] = field(default_factory=set)
    pythons: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        some = [python for python in PYTHONS if python in self.pythons]
        marker = " or ".join(f'python_version == "{python}"' for python in some)
        pin = f"{self.name}=={self.version}" + (f" ; {marker}" if len(some) < len(PYTHONS) else "")
        return " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in sorted(self.hashes))])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        uv = install_uv(Path(folder))
        for path, what, wanted in (
            (RUN, "What the server needs on an NVIDIA GPU", server_requirements()),
            (BUILD, "What builds the wheel", build_requirements()),
        ):
            locked = merged({python: resolve(uv, wanted, python, Path(folder)) for python in PYTHONS})
            head = _HEAD.format(what=what, first=PYTHONS[0], last=PYTHONS[-1])
            path.write_text(head + "\n".join(map(str, locked)) + "\n", "utf-8")
            hashes = sum(len(one.hashes) for one in locked)
            print(f"{path.relative_to(ROOT)}: {len(locked)} packages, {hashes} hashes")


def project() -> Mapping[str, object]:
    """Read pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def server_requirements() -> list[str]:
    """Return the dependencies of pyproject.toml, with those of every extra that a server may need."""
    table = project()["project"]
    assert isinstance(table, dict)
    extras: Mapping[str, list[str]] = table["optional-dependencies"]
    wanted = [row for name, rows in extras.items() if name not in UNNEEDED for row in rows]
    return [*table["dependencies"], *wanted]


def build_requirements() -> list[str]:
    """Return the requirements of the build, from pyproject.toml."""
    table = project()["build-system"]
    assert isinstance(table, dict)
    return list(table["requires"])


def install_uv(folder: Path) -> Path:
    """Install uv into an environment of its own and return its path."""
    venv.create(folder / "uv", with_pip=True)
    bin_folder = folder / "uv" / "bin"
    subprocess.run([bin_folder / "python", "-m", "pip", "install", "--quiet", UV], check=True)
    return bin_folder / "uv"


def resolve(uv: Path, wanted: Sequence[str], python: str, folder: Path) -> list[Locked]:
    """Resolve the requirements for one Python; return the packages with their wheels' hashes.

    Raises:
        SystemExit: pyproject.toml and constraints.txt contradict each other.
    """
    source, target = folder / "wanted.txt", folder / f"pylock.p{python.replace('.', '')}.toml"
    source.write_text("\n".join(wanted), "utf-8")
    command = [uv, "pip", "compile", "--quiet", "--no-config", "--no-build", "--system-certs"]
    command += ["--python-version", python, "--python-platform", PLATFORM]
    command += ["--constraints", CONSTRAINTS, "--format", "pylock.toml", "-o", target, source]
    env = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=env, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"pyproject.toml and constraints.txt contradict each other for Python {python}; see above")
    return [
        Locked(row["name"], row["version"], {wheel["hashes"]["sha256"] for wheel in row["wheels"]}, {python})
        for row in tomllib.loads(target.read_text("utf-8"))["packages"]
    ]


def merged(by_python: Mapping[str, Iterable[Locked]]) -> list[Locked]:
    """Return each version once, by name, with the Pythons that need it."""
    found: dict[tuple[str, str], Locked] = {}
    for rows in by_python.values():
        for row in rows:
            one = found.setdefault((row.name, row.version), Locked(row.name, row.version))
            one.hashes |= row.hashes
            one.pythons |= row.pythons
    return [found[key] for key in sorted(found)]


def pins(text: str) -> dict[str, set[str]]:
    """Return name → versions, of a lock or of constraints; names as the index spells them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, version, _ in entries(text):
        found[name].add(version)
    return dict(found)


def entries(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (name, version, hashes) of each row."""
    for row in text.replace("\\\n", " ").splitlines():
        pin, _, rest = row.partition(" ")
        name, equals, version = pin.partition("==")
        if equals and not row.startswith("#"):
            normal = name.lower().replace("_", "-").replace(".", "-")
            yield normal, version, [word for word in rest.split() if word.startswith("--hash=")]


if __name__ == "__main__":
    main()
