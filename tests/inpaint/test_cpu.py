"""What a process may use of its CPU, and how torch's threads are told before torch is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inpaint import cpu

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Prints the variable, and whether torch was imported before it was set.
REPORT = "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules, flush=True)"
COMMAND_LINE = f"""
import os, sys
from inpaint.cli import main
try:
    main(["schedulers"])
finally:
    {REPORT}
"""
WORKER = f"""
import os, socket, sys
from server.engines import worker
from server.engines.messages import Link, Message

def load(*_):
    {REPORT}
    os._exit(0)

ours, theirs = socket.socketpair()
Link(ours).send(Message("load", fields={{"spec": {{}}, "index": 0, "start": 1}}))
worker.run(theirs.detach(), load)
"""
RAY = f"import os, sys, server.ray; {REPORT}"


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder with /proc/self/cgroup and the files of control groups, by path below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/pod/app\n", {"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/path/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n0::/\n",
            {
                "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
    ],
)
def test_threads_fit_the_quota(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of 2 of 64 cores would start 64 threads, and be throttled most of the time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cpu.cores(machine(tmp_path, groups, **files)) == expected


def test_a_system_without_control_groups_has_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has neither /proc nor control groups."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu.cores(tmp_path) == 6


def test_waiting_threads_give_up_their_core_soon() -> None:
    """By default they keep it for 10 ms: among other programs the demo's picture took a minute."""
    environ: dict[str, str] = {}
    cpu.prepare_threads(environ)
    assert environ == {"GOMP_SPINCOUNT": "1000"}


@pytest.mark.parametrize("variable", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_the_callers_variables_win(variable: str) -> None:
    """A user who tunes OpenMP for a machine must not be overruled."""
    environ = {variable: "its own"}
    cpu.prepare_threads(environ)
    assert environ == {variable: "its own"}


@pytest.mark.parametrize("program", [COMMAND_LINE, WORKER, RAY], ids=["command line", "worker", "Ray"])
def test_it_is_said_before_torch_is_imported(program: str) -> None:
    """torch's library of threads reads its variables once, while it is loaded."""
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.splitlines()[-1] == "1000 False"
