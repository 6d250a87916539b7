"""From a module on a card that is not there to machine code: dynamo, inductor, Triton and ptxas, all real.

Nothing runs. What is reported is that code was made, and what it is made of; not that it is right or quick.
Of each kernel, the first of the configurations that a card would try out is compiled.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_mm", "_scaled_dot_product")


@dataclass
class Lowered:
    """The code of one part of the model."""

    kernels: dict[str, int] = field(default_factory=dict)  # name → bytes of its cubin
    shared_bytes: dict[str, int] = field(default_factory=dict)  # name → shared memory of one block
    transposing: list[str] = field(default_factory=list)  # kernels that write another layout than they read
    failures: dict[str, str] = field(default_factory=dict)  # kernel → the compiler's sentence
    products: dict[str, int] = field(default_factory=dict)  # "mm float16" → how many


class Lowering:
    """The compiler of this process, with what it makes; one for each process, after ``pretend``."""

    def __init__(self) -> None:
        self._now = Lowered()
        self._binary: Any = None
        self._install()

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Compile one call of ``function`` on fake tensors and return what came out, as JSON can hold it."""
        self._now = Lowered()
        torch._dynamo.reset()
        compiled = torch.compile(function, backend=self._backend, fullgraph=True, dynamic=False)
        compiled(*args, **kwargs)
        return asdict(self._now)

    def _backend(self, graph: Any, inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        compile_fx(graph, inputs)
        return graph.forward  # runs on fake tensors, where the compiled code could not

    def _install(self) -> None:
        import triton
        from torch._inductor import config
        from torch._inductor.runtime.triton_heuristics import CachingAutotuner

        inductor: Any = config
        inductor.fx_graph_cache = False
        inductor.compile_threads = 1
        inductor.post_grad_custom_post_pass = self._graph
        tuner: Any = CachingAutotuner
        tuner.precompile = lambda kernel, *_, **__: self._kernel(kernel)
        make: Any = triton.compile

        def compile_kernel(*args: Any, **kwargs: Any) -> Any:
            self._binary = make(*args, **kwargs)
            return self._binary

        triton.compile = compile_kernel

    def _kernel(self, kernel: Any) -> None:
        name, found = kernel.fn.__name__, self._now
        try:
            kernel._precompile_config(kernel.configs[0])
        except Exception as error:  # noqa: BLE001 - a compiler may raise anything, and all of it is reported
            found.failures[name] = f"{type(error).__name__}: {error}"[:500]
            return
        found.kernels[name] = len(self._binary.asm["cubin"])
        found.shared_bytes[name] = self._binary.metadata.shared
        # Inductor takes a tile of two sides for an element-wise kernel whose reads and writes differ in
        # layout, and a line for all others.
        if name.startswith("triton_poi") and "YBLOCK" in kernel.fn.src:
            found.transposing.append(name)

    def _graph(self, graph: torch.fx.Graph) -> None:
        for node in graph.nodes:
            name = getattr(node.target, "__name__", "").split(".")[0]
            if node.op == "call_function" and name.startswith(_PRODUCTS):
                first = next(arg.meta["val"] for arg in node.args if isinstance(arg, torch.fx.Node))
                key = f"{name} {str(first.dtype).removeprefix('torch.')}"
                self._now.products[key] = self._now.products.get(key, 0) + 1


def problems(part: dict[str, Any], shared_limit: int) -> list[str]:
    """Return what is wrong with the code of a part, one sentence each."""
    found = [f"{name} does not compile: {error}" for name, error in part["failures"].items()]
    found += [f"{n} × {name}" for name, n in part["products"].items() if name.endswith(" float32")]
    found += [
        f"{name} asks for {size} bytes of shared memory, and a block has {shared_limit}"
        for name, size in part["shared_bytes"].items()
        if size > shared_limit
    ]
    return found
