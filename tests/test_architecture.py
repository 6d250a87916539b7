"""The order of the packages, what may import torch, and what the ``__init__`` files hold."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Lowest first: a package imports only packages that stand before it. docs/architecture.md explains them.
ORDER = {
    "inpaint": (
        "_version", "errors", "files", "lru", "gpu_errors", "cuda", "drivers", "cpu", "schedulers", "pace",
        "prompt_weights", "prompt_warnings", "memory", "weights", "lora", "request", "images", "canvas",
        "batching", "demo", "about", "model", "fast", "job", "runtime", "engine", "selection", "mcp",
        "integrations", "cli", "__main__",
    ),
    "server": (
        "errors", "malloc", "models", "settings", "engines", "observe", "fetch", "storage", "service", "http",
        "dialects", "app", "uvicorn_server", "start", "ray", "cli",
    ),
}  # fmt: skip
TORCHLESS = (
    "images",
    "canvas",
    "selection",
    "batching",
    "weights",
    "lora/spec.py",
    "lora/files.py",
    "mcp",
    "cli",
    "errors.py",
    "about.py",
)
HEAVY = {"torch", "diffusers", "transformers", "huggingface_hub", "cv2"}
SERVER_EXTRA = {
    "server",
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "uvicorn",
    "ray",
}
MCP_EXTRA = {"pydantic", "uvicorn"}  # what the extra of inpaint/mcp brings, too
# The packages whose __init__ is more than a docstring, and why.
SPEAKING = {
    "inpaint": "the public names",
    "inpaint/cli": "main() and its exit codes",
    "inpaint/weights": "the public names",
    "inpaint/demo": "the demo model's folder",
    "inpaint/integrations/krita/sdxl_inpaint": "Krita imports it, and the plugin registers itself",
    "server/ray": "sets variables before ray is imported",
}


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module below the folders: its path from the root, and its syntax tree."""
    for folder in folders:
        found = ROOT / folder
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The dotted names that import statements among ``nodes`` name; ``from a import b`` is both a and a.b."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements that run when a module is imported: none inside functions or for type checkers."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_down_only(package: str) -> None:
    """A reader of a package need not know those that stand after it in the list."""
    order, wrong = ORDER[package], []
    for path, tree in modules(package):
        own = Path(path).parts[1].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in order, f"put {path} into ORDER and docs/architecture.md"
        for name in imports(ast.walk(tree)):
            root, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if root == package and other in order and order.index(other) > order.index(own):
                wrong.append(f"{path} imports {name}")
    assert not wrong


def test_the_engine_knows_no_server() -> None:
    """``pip install sdxl-inpaint`` without the server's extra must work."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in modules("inpaint")
        for name in imports(ast.walk(tree))
        if name.split(".")[0] in SERVER_EXTRA - (MCP_EXTRA if path.startswith("inpaint/mcp/") else set())
    ]
    assert not wrong


def test_light_packages_import_torch_late() -> None:
    """``--help``, the HTTP process and the batcher's tests must not wait seconds for torch."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in modules(*(f"inpaint/{part}" for part in TORCHLESS))
        for name in imports(at_import(tree))
        if name.split(".")[0] in HEAVY - {"cv2"}
    ]
    assert not wrong


def test_importing_a_package_does_nothing() -> None:
    """An ``__init__`` with imports makes every module of its package as slow to import as the slowest."""
    wrong = [
        path
        for path, tree in modules("inpaint", "server")
        if path.endswith("__init__.py")
        and Path(path).parent.as_posix() not in SPEAKING
        and len(tree.body) > 1
    ]
    assert not wrong


def test_no_bench_hides_a_module_of_python() -> None:
    """A program run as a file finds its neighbours first: bench/select.py stopped ``import selectors``."""
    files = [path for folder in ("bench", "tools") for path in Path(folder).glob("*.py")]
    assert files
    assert not [path for path in files if path.stem in sys.stdlib_module_names]


@pytest.mark.parametrize(
    "code",
    [
        "import inpaint, inpaint.weights, inpaint.images.codec",
        "from inpaint.cli import main; main(['--help'])",
        "from inpaint.cli import main; main(['run', '--help'])",
        "from inpaint.cli import main; main(['serve', '--help'])",
        "from inpaint.cli import main; main(['keys', '--help'])",
    ],
)
def test_help_loads_nothing_heavy(code: str) -> None:
    """``--help`` answers in a fifth of a second: no torch, no web framework, no Ray in it."""
    heavy = HEAVY | SERVER_EXTRA - {"server", "pydantic"}  # pydantic is typer's own
    check = (
        "import sys\n"
        "try:\n"
        f"    {code}\n"
        "except SystemExit:\n"
        "    pass\n"
        f"sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
