"""Each worker process sees one GPU: its own."""

import asyncio
from pathlib import Path

import pytest

from inpaint.errors import DeviceError
from server.engines.child import Child
from server.engines.gpus import VISIBLE, advice, gpu_for
from server.engines.pool import Pool
from server.engines.worker import WorkerSpec
from tests.support.paths import STUB_WORKER

# server's CUDA_VISIBLE_DEVICES, its --device, the worker → what the worker's is, and its device
BY_WORKER = {
    (None, "auto", 0): ("0", "auto"),
    (None, "cuda", 3): ("3", "cuda"),
    ("2,5", "auto", 1): ("5", "auto"),
    ("GPU-8f2a, MIG-77c1/2/0", "cuda", 1): ("MIG-77c1/2/0", "cuda"),
    ("0,1", "auto", 2): (None, "cuda:2"),  # which is not there: an error, not the CPU and not GPU 0
    ("1,-1,2", "auto", 1): (None, "cuda:1"),
    ("", "auto", 0): (None, "auto"),
    ("-1", "auto", 1): (None, "auto"),
    (None, "cpu", 1): (None, "cpu"),
    (None, "cuda:1", 0): (None, "cuda:1"),
}


@pytest.mark.parametrize(("server", "worker"), BY_WORKER.items())
def test_a_worker_gets_its_own_gpu(
    server: tuple[str | None, str, int], worker: tuple[str | None, str]
) -> None:
    """Two workers on one GPU run out of memory; one on a GPU that was hidden takes another user's."""
    listed, device, index = server
    variables, got = gpu_for(index, device, {} if listed is None else {VISIBLE: listed})
    assert (variables.get(VISIBLE), got) == worker


def test_the_variable_is_set_before_the_process_starts(tmp_path: Path) -> None:
    """CUDA reads it once, so a worker that set it itself might be too late; the rest is inherited."""
    found = tmp_path / "found"
    program = (
        "-c",
        f"import os; open({str(found)!r}, 'w').write(os.environ['{VISIBLE}'] + os.environ['PATH'])",
    )

    async def main() -> int | None:
        child = Child(program, lambda message: None, {VISIBLE: "MIG-1"})
        await child.ended.wait()
        return await child.exit_status()

    assert asyncio.run(main()) == 0
    assert found.read_text().startswith("MIG-1/")


def test_a_pool_gives_each_worker_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list that a scheduler gave the server is dealt out in its order."""
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b")
    calls = tmp_path / "calls"
    calls.touch()

    async def main() -> set[str]:
        pool = Pool(WorkerSpec(model=str(calls)), workers=2, program=(str(STUB_WORKER),))
        await pool.start()
        try:
            environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pool.pids()]
        finally:
            await pool.close(0)
        pairs = [pair for one in environments for pair in one.decode().split("\0")]
        return {pair for pair in pairs if pair.startswith(VISIBLE)}

    assert asyncio.run(main()) == {f"{VISIBLE}=GPU-a", f"{VISIBLE}=GPU-b"}


@pytest.mark.parametrize(
    ("index", "device", "listed", "advised"),
    [
        (0, "auto", None, False),
        (1, "auto", None, True),
        (1, "cuda", "0", True),
        (1, "cpu", None, False),
        (1, "cuda:0", None, False),
        (1, "auto", "", False),
    ],
)
def test_a_worker_without_a_gpu_is_told_of_sharing(
    index: int, device: str, listed: str | None, advised: bool
) -> None:
    """Two models on a machine with one GPU are a likely first try."""
    found = advice(index, device, {} if listed is None else {VISIBLE: listed})
    assert ("--device cuda:0" in found) == advised


def test_the_reason_of_a_worker_without_a_gpu_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch only says that CUDA_VISIBLE_DEVICES, which the operator never set, names no GPU."""
    monkeypatch.delenv(VISIBLE, raising=False)
    model = tmp_path / "model"
    model.write_text("no GPU")

    async def main() -> None:
        pool = Pool(WorkerSpec(model=str(model)), program=(str(STUB_WORKER),), numbers=[1])
        says = "no such GPU; worker 1 needs the GPU of its number: start fewer workers, or let all share one"
        with pytest.raises(DeviceError, match=says):
            await pool.start()

    asyncio.run(main())
