"""Network namespaces as hosts: each has its own address, and can be cut off from the others.

Needs root and iproute2. A bridge in the caller's namespace, where the load comes from, connects them. All of
it is removed afterwards, also the processes that were started in the hosts.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_NET = "10.77.0"
HERE = f"{_NET}.1"
NETWORK = f"{_NET}.0/24"


@dataclass(eq=False)
class Host:
    """A namespace and the processes in it."""

    name: str
    address: str
    env: Mapping[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def enter(self) -> tuple[str, ...]:
        """The prefix of a command line that runs here."""
        return ("ip", "netns", "exec", self.name)

    def start(self, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a process here, in its own session; it ends with the host."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self.enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        """Return the ids of all processes here."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.name).split()]

    def cut(self) -> None:
        """Take its network down; its processes run on."""
        _run("ip", "link", "set", f"v-{self.name}", "down")

    def join(self) -> None:
        """Undo :meth:`cut`."""
        _run("ip", "link", "set", f"v-{self.name}", "up")

    def end(self) -> None:
        """Kill everything that runs here."""
        for _ in range(50):
            pids = self.pids()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.processes:
                process.poll()
            if not pids:
                break
            time.sleep(0.1)
        self.processes.clear()


@contextmanager
def hosts(names: Sequence[str], env: Mapping[str, str]) -> Iterator[list[Host]]:
    """Make hosts on one bridge, for the length of the block.

    Args:
        names: short and unique on this machine.
        env: variables of every process that is started in them.
    """
    made = [Host(name, f"{_NET}.{10 + number}", env) for number, name in enumerate(names)]
    bridge = f"b-{names[0]}"
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{HERE}/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for host in made:
            _wire(host, bridge)
        yield made
    finally:
        for host in made:
            with suppress(subprocess.CalledProcessError):
                host.end()
                _run("ip", "netns", "del", host.name)
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", bridge)


def _wire(host: Host, bridge: str) -> None:
    inside = [*host.enter, "ip"]
    _run("ip", "netns", "add", host.name)
    _run("ip", "link", "add", f"v-{host.name}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _run("ip", "link", "set", f"v-{host.name}", "master", bridge, "up")
    _run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "link", "set", "lo", "up")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
