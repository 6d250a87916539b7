"""Run the README's two commands on a bare machine: ``python -m tools.container.check_bare``.

As root, after ``apt-get install debootstrap``. The machine is a Debian from debootstrap with python3,
python3-venv, git and make, and nothing else; in it a clone of HEAD. First root runs ``make demo`` and
``make test``, which as root brings the programs that some tests use. Then, in another bare machine, a user
without rights runs the same, and the tests that need a program are skipped and counted. Prints the seconds of
each, the end of its output, and the size of ``.venv``; the first command that fails ends it with 1.

Where this machine's pip offers another build of torch than PyPI's (a CPU build), that one is offered inside.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.container.check_image import PYTHONS, ROOT, other_torch
from tools.container.rootfs import PATH, Root, RootError, debootstrap, missing, registries, tail

PACKAGES = ("python3", "python3-venv", "git", "make", "ca-certificates")
COMMANDS = (("make", "demo"), ("make", "test"))
USERS = {"root": "0:0", "user": "1000:1000"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.container.check_bare", description=__doc__)
    parser.add_argument("--suite", choices=sorted(PYTHONS), default="bookworm", help="of Debian")
    parser.add_argument("--as", dest="users", nargs="+", choices=sorted(USERS), default=list(USERS))
    parser.add_argument("--keep", action="store_true", help="leave the folders and the logs")
    options = parser.parse_args()
    if packages := missing():
        sys.exit(f"this needs programs that are not installed; run: apt-get install {' '.join(packages)}")
    if os.geteuid():
        sys.exit("check_bare must run as root: it makes root folders and runs commands in them")
    work = Path(tempfile.mkdtemp(prefix="check-bare-"))
    try:
        check(work, options.suite, options.users)
    except RootError as error:
        sys.exit(f"FAILED: {error}")
    finally:
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work)


def check(work: Path, suite: str, users: Sequence[str]) -> None:
    """Make the bare machine once and run the commands in a copy of it for each user."""
    host = work / "host"
    host.mkdir()
    environment = {"PATH": PATH, "LANG": "C.UTF-8", **registries(host)}
    if other_torch(host, PYTHONS[suite]):
        environment["PIP_FIND_LINKS"] = "/run/host"
    debootstrap(suite, work / "base", work / "base.txt")
    base = Root(work / "base", "0:0", environment | {"DEBIAN_FRONTEND": "noninteractive"}, host=host)
    install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(PACKAGES)}"
    base.run(["/bin/sh", "-c", f"{install} && useradd --uid 1000 --create-home user"], work / "base.txt")
    (work / "base" / "etc" / "hosts").write_text(
        "127.0.0.1 localhost\n::1 localhost\n"
    )  # as every machine has
    for name in users:
        machine = work / name
        subprocess.run(["cp", "-a", work / "base", machine], check=True)
        run_commands(machine, name, environment, host)
        shutil.rmtree(machine)


def run_commands(machine: Path, name: str, environment: dict[str, str], host: Path) -> None:
    """Clone HEAD into the machine and run the commands there as one user."""
    home = "/root" if name == "root" else f"/home/{name}"
    clone = machine / home.lstrip("/") / "inpaint"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    subprocess.run(["chown", "-R", USERS[name], clone], check=True)
    root = Root(machine, USERS[name], environment | {"HOME": home}, f"{home}/inpaint", host=host)
    for command in COMMANDS:
        log = machine.parent / f"{name}-{command[-1]}.txt"
        started = time.monotonic()
        root.run(command, log)
        print(f"{name:<5} {' '.join(command):<10} {time.monotonic() - started:6.0f} s", flush=True)
        print("\n".join(f"      {line}" for line in tail(log, 6).splitlines()), flush=True)
        size = subprocess.run(["du", "-sm", clone / ".venv"], check=True, capture_output=True, text=True)
        print(f"      .venv has {size.stdout.split()[0]} MB", flush=True)


if __name__ == "__main__":
    main()
