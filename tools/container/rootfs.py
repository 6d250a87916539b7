"""Root folders: Debian from debootstrap, and commands run in it by chroot in their own namespaces.

Every mount is made in a private namespace and ends with the command, so that only the folder stays on this
machine. Needs root, and the programs of `NEEDED`.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of Debian and of Docker's images
NEEDED = {
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "chroot": "coreutils",
}

# Variables by which this machine reaches the package registries, if it has any; Docker passes them on, too.
_REGISTRIES = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# sh, in the new namespaces: $1 is the root, the rest the command. HOST is a folder that shows at /run/host.
_ENTER = """
set -e
R="$1"; shift
if [ -n "$READ_ONLY" ]; then mount --bind "$R" "$R"; mount -o remount,bind,ro "$R"; fi
mount -t proc proc "$R/proc"
mount -t tmpfs -o mode=755 run "$R/run"
if [ -n "$HOST" ]; then mkdir "$R/run/host"; mount --bind "$HOST" "$R/run/host"; fi
mount -t tmpfs -o mode=755 dev "$R/dev"
for name in null zero full random urandom tty; do
  : > "$R/dev/$name"; mount --bind "/dev/$name" "$R/dev/$name"
done
mkdir -m 1777 "$R/dev/shm"; ln -s /proc/self/fd "$R/dev/fd"
mkdir "$R/dev/pts"; mount -t devpts -o newinstance,ptmxmode=0666 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
if [ -n "$READ_ONLY" ]; then mount -t tmpfs -o mode=1777 tmp "$R/tmp"; fi
for pair in $BINDS; do mount --bind "${pair%%:*}" "$R${pair#*:}"; done
if [ -n "$OFFLINE" ]; then "$PYTHON" -c "$LOOPBACK_UP"; fi
exec chroot "$R" "$@"
"""
# SIOCSIFFLAGS with IFF_UP: `ip` is not on every machine.
_LOOPBACK_UP = (
    "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))"
)


class RootError(Exception):
    """A command in the root failed; the message has the end of its output."""


def debootstrap(suite: str, folder: Path, log: Path) -> None:
    """Put a minimal Debian into ``folder``, from this machine's mirror."""
    with log.open("wb") as file:
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", suite, folder], stdout=file, stderr=file, check=False
        )
    if done.returncode:
        raise RootError(f"debootstrap ended with {done.returncode}:\n{tail(log)}")


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def missing() -> list[str]:
    """Return the Debian packages that this module needs and this machine lacks."""
    return sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that commands see as the whole machine.

    ``read_only`` is for a container as a careful operator runs it: only /tmp and ``binds`` can be written,
    there is no capability and no way to get one. ``offline``: there is only loopback.
    """

    folder: Path
    user: str = "0:0"
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    host: Path | None = None  # shows at /run/host
    binds: Mapping[Path, str] = field(default_factory=dict)
    read_only: bool = False
    offline: bool = False

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command as process 1 of its namespace, with its output in ``log``."""
        spaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        spaces += ["--net"] if self.offline else []
        env = {
            "PATH": os.environ["PATH"],
            "READ_ONLY": "1" if self.read_only else "",
            "OFFLINE": "1" if self.offline else "",
            "HOST": str(self.host or ""),
            "BINDS": " ".join(f"{source}:{target}" for source, target in self.binds.items()),
            "PYTHON": sys.executable,
            "LOOPBACK_UP": _LOOPBACK_UP,
        }
        enter = ["unshare", *spaces, "sh", "-c", _ENTER, "sh", str(self.folder), *self._inside(command)]
        with log.open("ab") as file:
            return subprocess.Popen(enter, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def run(self, command: Sequence[str], log: Path, timeout_s: float = 3600) -> None:
        """Run a command to its end.

        Raises:
            RootError: it failed.
        """
        code = self.start(command, log).wait(timeout_s)
        if code:
            raise RootError(f"ended with {code}:\n{tail(log)}")

    def run_with(self, process: subprocess.Popen[bytes], command: Sequence[str]) -> tuple[int, str]:
        """Run a command in a started one's namespaces, as `docker exec` does; return status and output."""
        spaces = ["--target", str(inner(process)), "--mount", "--pid", "--root", "--wd"]
        spaces += ["--net"] if self.offline else []
        done = subprocess.run(
            ["nsenter", *spaces, *self._inside(command)], capture_output=True, text=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def _inside(self, command: Sequence[str]) -> list[str]:
        user, _, group = self.user.partition(":")
        words = ["/usr/bin/env", "-i", "--chdir", self.cwd]
        words += [f"{name}={value}" for name, value in self.environment.items()]
        words += ["setpriv", f"--reuid={user}", f"--regid={group or user}", "--clear-groups"]
        if self.read_only:
            words += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        return [*words, *command]


def inner(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> int:
    """Return this machine's number of the started process, which is a child of ``process``, an unshare.

    Raises:
        RootError: it did not start.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + patience_s
    while not (found := children.read_text().split()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RootError(f"it did not start (status {process.poll()})")
        time.sleep(0.02)
    return int(found[0])


def registries(host: Path) -> dict[str, str]:
    """Return variables for commands that install; copy this machine's trusted certificates to ``host``."""
    found = {name: os.environ[name] for name in _REGISTRIES if name in os.environ}
    if _CERTIFICATES.exists():
        shutil.copy(_CERTIFICATES, host / "ca-certificates.crt")
        found["PIP_CERT"] = "/run/host/ca-certificates.crt"
    return found
