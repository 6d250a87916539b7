"""What ``compiled`` needs of torch.compile: what to compile, where to keep it, how to leave others be."""

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from inpaint.model.load import Model

Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_OLDEST_GPU = (7, 0)  # that Triton writes code for
_log = logging.getLogger(__name__)


def can(model: Model) -> str:
    """Why compiling brings nothing for ``model``; empty where it does."""
    if model.device.type != "cuda":
        return "on a CPU compiling takes longer than it saves"
    if torch.cuda.get_device_capability(model.device) < _OLDEST_GPU:
        return "Triton writes no code for GPUs before compute capability 7.0"
    return "" if find_spec("triton") else "compiling for a GPU needs the package triton"


def inductor(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """The compiler that comes with torch."""
    from torch._inductor import compile as compile_graph

    compiled: Callable[..., Any] = compile_graph(graph, inputs)
    return compiled


def keep_on_disk(folder: Path | None = None) -> None:
    """Have this process's compiled code in ``folder``, so that the next process starts with it.

    For the process as a whole, since inductor takes it from the environment. Where the variable is set
    already, it stays; a folder that cannot be made leaves torch's own, which is a temporary one.

    Args:
        folder: the user's cache folder if None. Nobody else may write there: what lies in it is executed.
    """
    if CACHE_VARIABLE in os.environ:
        return
    if folder is None:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("inpaint", appauthor=False)) / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.info("compiled code is not kept: %s", error)
    else:
        os.environ[CACHE_VARIABLE] = str(folder)


def parts(stage: str, unet: Any) -> list[Any]:
    """What is compiled as one: the whole UNet, or each of the blocks that diffusers says are repeated."""
    if stage == "whole":
        return [unet]
    names = unet._repeated_blocks or ()  # noqa: SLF001 - what its compile_repeated_blocks goes by
    return [module for module in unet.modules() if type(module).__name__ in names]


def compiling(modules: list[Any], backend: Backend) -> None:
    """Have each module's ``forward`` compile what it has not seen: no graph breaks, no dynamic shapes."""
    for module in modules:
        module.forward = torch.compile(module.forward, backend=backend, fullgraph=True, dynamic=False)


def compiled_only(modules: list[Any]) -> None:
    """Have each module's ``forward`` use what another tree of the same modules has compiled, and no more.

    torch keeps compiled code by function, not by object, and asks the inputs and the modules' settings before
    it is used. A call that nothing fits is run uncompiled.
    """
    for module in modules:
        module.forward = torch._dynamo.run(module.forward)  # noqa: SLF001 - public by its __all__


def many_shapes() -> AbstractContextManager[None]:
    """Not torch's limit of 8 shapes a function: a list bounds ours, and a UNet's blocks have several each."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(  # noqa: SLF001
        recompile_limit=256, accumulated_recompile_limit=1024
    )
    return patched


def uncompiled_while_tracing() -> AbstractContextManager[None]:
    """While one thread traces, compiled code raises in every thread; within this it runs uncompiled."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(  # noqa: SLF001
        error_on_nested_fx_trace=False
    )
    return patched


def spare_the_others() -> None:
    """Keep inductor from the one trace that makes module calls of other threads fail.

    torch.fx replaces ``nn.Module.__call__`` for the whole process while it traces. The tracer that
    torch.compile has hands other threads' calls through; the one with which inductor makes an empty graph,
    once a process, raises NameError in them. So that graph is made here, without tracing.
    """
    from torch._inductor import loop_body

    shim = getattr(loop_body, "InterpreterShim", None)
    if hasattr(shim, "_dummy_gm"):
        graph = torch.fx.Graph()
        graph.output(graph.placeholder("x"))
        empty = torch.fx.GraphModule(torch.nn.Module(), graph)
        setattr(shim, "_dummy_gm", staticmethod(lambda: empty))  # noqa: B010 - torch gives it no type


def interrupt(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise ``error`` in another thread when it next runs Python: torch itself cannot end a compilation."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))
