"""One GPU for each worker process, chosen by ``CUDA_VISIBLE_DEVICES`` before the process starts.

A worker that sees one GPU cannot open a context on another by mistake, which would take 0.4 GB of it.
"""

from collections.abc import Mapping

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_for(index: int, device: str, environ: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """Return the variables to add to the environment of worker ``index``, and the device that it loads on.

    A list that the server was started with is kept: worker 1 gets its second entry, be it a number, a GPU's
    UUID or a MIG instance's. A worker for which the list has no entry asks for a device that is not there,
    and so fails with an error instead of sharing a GPU or painting on the CPU.

    Args:
        index: the worker's number, from 0.
        device: the server's setting; one other than ``auto`` and ``cuda`` is what the worker gets.
        environ: the server's environment.
    """
    if device not in ("auto", "cuda"):
        return {}, device
    if VISIBLE not in environ:
        return {VISIBLE: str(index)}, device
    listed: list[str] = []
    for entry in map(str.strip, environ[VISIBLE].split(",")):
        if entry in ("", "-1"):  # for CUDA, too, the list ends here
            break
        listed.append(entry)
    if not listed:  # hidden on purpose: the CPU for ``auto``
        return {}, device
    return ({VISIBLE: listed[index]}, device) if index < len(listed) else ({}, f"cuda:{index}")


def advice(index: int, device: str, environ: Mapping[str, str]) -> str:
    """Return what to do if worker ``index`` cannot use the GPU that :func:`gpu_for` gave it; may be empty.

    Args:
        index: the worker's number, from 0.
        device: the server's setting.
        environ: the server's environment.
    """
    variables, own = gpu_for(index, device, environ)
    if index == 0 or not (variables or own != device):
        return ""
    return (
        f"; worker {index} needs the GPU of its number: start fewer workers, or let all share one with "
        "--device cuda:0"
    )
