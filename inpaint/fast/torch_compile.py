"""The parts of torch.compile that ``compiled`` uses: modules to compile, the disk cache, thread safety."""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from inpaint.model.load import Model

Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_OLDEST_GPU = (7, 0)  # compute capability that Triton generates code for
_log = logging.getLogger(__name__)


def can(model: Model) -> str:
    """Return why ``model`` gains nothing from compiling; empty if it gains."""
    if model.device.type != "cuda":
        return "on a CPU compiling takes longer than it saves"
    if torch.cuda.get_device_capability(model.device) < _OLDEST_GPU:
        return "Triton generates no code for GPUs before compute capability 7.0"
    return "" if find_spec("triton") else "compiling for a GPU needs the package triton"


def inductor(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """Compile a graph with inductor, the compiler that comes with torch."""
    from torch._inductor import compile as compile_graph

    compiled: Callable[..., Any] = compile_graph(graph, inputs)
    return compiled


def keep_on_disk(folder: Path | None = None) -> None:
    """Keep this process's compiled code in ``folder``, so that the next process starts with it.

    It holds for the whole process, since inductor reads an environment variable. A variable that is set
    already stays. If the folder cannot be created, torch keeps its own, a temporary one.

    Args:
        folder: the user's cache folder if None. No other user may write there: what it holds is executed.
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
    """Return the modules that are compiled as one each: the whole UNet, or the blocks that repeat in it."""
    if stage == "whole":
        return [unet]
    names = unet._repeated_blocks or ()  # noqa: SLF001 - as its compile_repeated_blocks does
    return [module for module in unet.modules() if type(module).__name__ in names]


def compiling(modules: list[Any], backend: Backend) -> None:
    """Make each module's ``forward`` compile new shapes, without graph breaks and dynamic shapes."""
    for module in modules:
        module.forward = torch.compile(module.forward, backend=backend, fullgraph=True, dynamic=False)


def compiled_only(modules: list[Any]) -> None:
    """Make each module's ``forward`` use code that a copy of the module has compiled, and compile nothing.

    torch keeps compiled code by function, not by object, and checks the inputs and the modules' settings
    before using it. A call that no code fits runs uncompiled.
    """
    for module in modules:
        module.forward = torch._dynamo.run(module.forward)  # noqa: SLF001 - public by its __all__


def many_shapes() -> AbstractContextManager[None]:
    """Raise torch's limit of 8 shapes a function: the shapes are listed, and a UNet's blocks have several."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(  # noqa: SLF001
        recompile_limit=256, accumulated_recompile_limit=1024
    )
    return patched


def uncompiled_while_tracing() -> AbstractContextManager[None]:
    """Run compiled code uncompiled while another thread traces, where torch would raise in every thread."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(  # noqa: SLF001
        error_on_nested_fx_trace=False
    )
    return patched


def protect_other_threads() -> None:
    """Keep inductor from the one trace that makes module calls of other threads fail.

    torch.fx replaces ``nn.Module.__call__`` for the whole process while it traces. torch.compile's tracer
    passes other threads' calls through; the tracer with which inductor makes an empty graph, once a process,
    raises NameError in them. So that graph is made here, without tracing.
    """
    from torch._inductor import loop_body

    shim = getattr(loop_body, "InterpreterShim", None)
    if hasattr(shim, "_dummy_gm"):
        graph = torch.fx.Graph()
        graph.output(graph.placeholder("x"))
        empty = torch.fx.GraphModule(torch.nn.Module(), graph)
        setattr(shim, "_dummy_gm", staticmethod(lambda: empty))  # noqa: B010 - torch gives it no type


class Interruption(BaseException):
    """The end of a compilation that is not wanted any more; no handler for ``Exception`` catches it."""


def interrupt(thread: threading.Thread) -> None:
    """Raise ``Interruption`` in another thread when it next runs Python: torch cannot end a compilation.

    Python drops it if the thread is in a finaliser or a callback of the garbage collector just then, so this
    is to be repeated until the thread has ended.
    """
    if thread.ident is not None:
        _drop_silently()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(Interruption)
        )


@cache
def _drop_silently() -> None:
    """Keep Python from printing a traceback of each ``Interruption`` that it drops."""
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is not Interruption:
            report(unraisable)

    sys.unraisablehook = hook
