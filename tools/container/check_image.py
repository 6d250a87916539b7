"""Try `Dockerfile.cuda` without Docker: ``python -m tools.container.check_image``.

As root, after ``apt-get install debootstrap``. Every COPY, ENV, ARG, USER, WORKDIR and RUN is carried out in
order in a bare Debian, in folders below TMPDIR; then the result is used as `docker run --read-only
--cap-drop ALL` would: its user, the folders that it may write, its health check, its entrypoint with the demo
model, and SIGTERM. It prints a line for each step; the first that fails ends it with 1.

There are differences: the base is Debian from debootstrap and not NVIDIA's Ubuntu, and there is no GPU. If
this machine's pip offers another build of torch than the lock names (a CPU build for the base's Python), that
one is installed, through the Dockerfile's own REQUIREMENTS, and the packages that only CUDA needs are left
out; everything else is as in the lock, hash for hash. ``--cuda`` leaves nothing out: 3 GB to download, 8 GB
of disk.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.container.dockerfile import DockerfileError, Ignore, Instruction, Scope, Stage, context, read
from tools.container.image_use import step, use
from tools.container.lock import RUN, entries
from tools.container.rootfs import PATH, Root, RootError, debootstrap, missing, registries

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.cuda"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
ONLY_CUDA = ("nvidia-", "cuda-", "triton")
CHECKED = "docs/deploy/requirements-check.txt"


@dataclass(slots=True)
class Build:
    """The folders and variables of a build so far."""

    work: Path
    arguments: Mapping[str, str]
    registries: Mapping[str, str]
    roots: dict[str, Path] = field(default_factory=dict)  # by the stage's name
    scope: Scope = field(default_factory=lambda: Scope({}))
    user: str = "0:0"
    cwd: str = "/"

    @property
    def log(self) -> Path:
        """The log of every command."""
        return self.work / "log.txt"

    @property
    def host(self) -> Path:
        """The folder that the roots see at /run/host."""
        return self.work / "host"


def main() -> None:
    options = _options()
    if packages := missing():
        sys.exit(f"this needs programs that are not installed; run: apt-get install {' '.join(packages)}")
    if os.geteuid():
        sys.exit("check_image must run as root: it makes root folders and runs commands in them")
    started, work = time.monotonic(), Path(tempfile.mkdtemp(prefix="check-image-"))
    try:
        check(work, options.suite, cuda=options.cuda)
        print(f"all steps in {time.monotonic() - started:.0f} s", flush=True)
    except (RootError, DockerfileError, subprocess.CalledProcessError) as error:
        sys.exit(f"FAILED: {error}")
    finally:
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.container.check_image", description=__doc__)
    parser.add_argument("--suite", choices=sorted(PYTHONS), default="bookworm", help="of Debian, as base")
    parser.add_argument("--cuda", action="store_true", help="also install torch's CUDA build, as locked")
    parser.add_argument("--keep", action="store_true", help="leave the folders and the log")
    return parser.parse_args()


def check(work: Path, suite: str, *, cuda: bool) -> None:
    """Build the image in a new folder and use it.

    Raises:
        RootError: a step failed.
        DockerfileError: the Dockerfile has unknown syntax.
    """
    (work / "host").mkdir()
    build = Build(work, {}, registries(work / "host"))
    with step("the build's context") as found:
        names = lay_out(work / "context")
        found.append(f"{len(names)} files")
    with step("torch") as found:
        override = None if cuda else other_torch(build.host, PYTHONS[suite])
        found.append("as locked" if override is None else f"{override}, without CUDA's packages")
    if override is not None:
        (work / "context" / CHECKED).write_text(without_cuda(RUN.read_text("utf-8"), build.host / override))
        build.arguments = {"REQUIREMENTS": CHECKED}
        build.registries["PIP_FIND_LINKS"] = "/run/host"  # the folder of that torch
    stages = read(DOCKERFILE.read_text("utf-8"), {"BASE": f"debian:{suite}"})
    with step(f"base: debian {suite} by debootstrap, in place of NVIDIA's Ubuntu"):
        debootstrap(suite, work / "base", build.log)
    for number, stage in enumerate(stages):
        build_stage(build, stage, stage.name or f"stage-{number}")
    use(work, stages[-1], build.roots[stages[-1].name or f"stage-{len(stages) - 1}"])


def lay_out(folder: Path) -> list[str]:
    """Copy the files that a build sees and return their names."""
    names = context(ROOT, Ignore(Path(f"{DOCKERFILE}.dockerignore").read_text("utf-8")))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return names


def other_torch(folder: Path, python: str) -> str | None:
    """Download the wheel that pip takes for torch; return its name, or None if it is the locked one."""
    ((version, hashes),) = ((v, h) for name, v, h in entries(RUN.read_text("utf-8")) if name == "torch")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--platform", "manylinux_2_28_x86_64", "-d", folder]
    subprocess.run([*command, f"torch=={version}"], check=True)
    (wheel,) = folder.glob("torch-*.whl")
    if f"--hash=sha256:{sha256(wheel)}" not in hashes:
        return wheel.name
    wheel.unlink()
    return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_cuda(lock: str, wheel: Path) -> str:
    """Return the lock with this build of torch, and without the packages that only CUDA needs."""
    kept = []
    for row in lock.replace("\\\n", " ").splitlines():
        if row.startswith("torch=="):
            kept.append(f"{row.split()[0]} --hash=sha256:{sha256(wheel)}")
        elif not row.startswith(ONLY_CUDA):
            kept.append(row)
    return "\n".join(kept) + "\n"


# Building.


def build_stage(build: Build, stage: Stage, name: str) -> None:
    """Run one stage's instructions, in a copy of the base."""
    root = build.roots[name] = build.work / name
    with step(f"{name}: FROM {stage.base}"):
        subprocess.run(["cp", "-a", build.work / "base", root], check=True)
    build.scope, build.user, build.cwd = Scope(build.arguments), "0:0", "/"
    for instruction in stage.instructions:
        build.scope.take(instruction)
        if instruction.name in ("RUN", "COPY", "WORKDIR", "USER"):
            with step(f"{name}: {instruction.name} {instruction.value}"[:110]):
                carry_out(build, root, instruction)
    size = subprocess.run(["du", "-sm", root], check=True, capture_output=True, text=True).stdout.split()[0]
    print(f"     {name} has {size} MB")


def carry_out(build: Build, root: Path, instruction: Instruction) -> None:
    """Run one RUN, COPY, WORKDIR or USER."""
    value = build.scope.fill(instruction.value) if instruction.name != "RUN" else instruction.value
    match instruction.name:
        case "USER":
            build.user = value
        case "WORKDIR":
            build.cwd = os.path.join(build.cwd, value)  # noqa: PTH118 - of the root, not of this machine
            (root / build.cwd.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy(build, root, replace(instruction, value=value))
        case "RUN":
            known = {"PATH": PATH, "HOME": "/root", **build.registries, **build.scope.arguments}
            environment = known | build.scope.environment
            inside = Root(root, build.user, environment, build.cwd, host=build.host)
            inside.run(["/bin/sh", "-c", value], build.log)


def copy(build: Build, root: Path, instruction: Instruction) -> None:
    """Copy as Docker does: a folder's content, not the folder; several sources only into a folder.

    Raises:
        RootError: the build does not see a source.
    """
    *sources, target = instruction.words()
    stage = instruction.flags.get("from")
    origin = build.roots[stage] if stage else build.work / "context"
    folder = root / os.path.join(build.cwd, target).lstrip("/")  # noqa: PTH118
    for source in sources:
        path = origin / source.lstrip("/")
        if not path.exists():
            raise RootError(f"COPY {source}: the build does not see it")
        if path.is_dir():
            shutil.copytree(path, folder, symlinks=True, dirs_exist_ok=True)
        else:
            into = target.endswith("/") or len(sources) > 1 or folder.is_dir()
            to = folder / path.name if into else folder
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)


if __name__ == "__main__":
    main()
