"""Imports go up the list only, and starting costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import inpaint

PACKAGE = Path(inpaint.__file__).parent

# Lowest first; a module may import what stands before it. docs/architecture.md explains the layers.
ORDER = (
    "errors", "schedulers", "loras", "request", "structure", "work",
    "exif", "image", "infotext", "metadata",
    "membrane", "fills", "colors", "blend", "canvas", "weights", "lora_files", "demo",
    "line", "admission", "batcher", "profile",
    "memory", "lora", "models", "exchange",
    "prompts", "latents", "encodes", "unet", "denoise", "fast", "warmup",
    "job", "lane", "painter", "faults", "side", "loop", "engine",
    "cli", "__main__",
)  # fmt: skip


SERVER_ORDER = (
    "problems", "settings", "client", "metrics", "logs", "telemetry",
    "addresses", "targets", "dialler", "fetch",
    "tables", "migrations", "db", "keys", "ledger", "store", "peers", "blobs", "limits",
    "forecast", "routing", "wire", "tickets", "process", "slots", "worker", "pool",
    "orders", "pictures", "auth", "body", "service", "sweeper", "durable",
    "dialects", "middleware", "description", "page", "app", "serving", "start", "ray",
)  # fmt: skip
SERVER_PACKAGE = PACKAGE.parent / "server"
FILES = sorted([*PACKAGE.rglob("*.py"), *SERVER_PACKAGE.rglob("*.py")])


def imports_of(path: Path, package: str, own: str) -> set[str]:
    """The modules of ``package`` that a file imports, at its top or inside functions, less its own."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names |= {m.split(".")[1] for m in modules if m.startswith(f"{package}.")}
    return names - {own}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_imports_go_up_the_list_only(path: Path) -> None:
    """Whoever reads a module need not know the ones above it."""
    package, part, *_ = path.relative_to(PACKAGE.parent).parts
    order = ORDER if package == "inpaint" else SERVER_ORDER
    own = part.removesuffix(".py")
    if own == "__init__":
        return
    assert own in order, f"put {own} into the list and docs/architecture.md"
    found = imports_of(path, package, own)
    assert all(order.index(name) < order.index(own) for name in found), found


SERVER = {"server", "fastapi", "pydantic", "pydantic_settings", "sqlalchemy", "alembic", "uvicorn"}
HAND_OVER = {PACKAGE / "cli" / name for name in ("keys.py", "serve.py")}  # and these inside functions only


def server_imports(tree: ast.AST) -> list[ast.stmt]:
    """The statements below ``tree`` that import what the server's extra installs."""
    found: list[ast.stmt] = []
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.stmt) and SERVER & {module.split(".")[0] for module in modules}:
            found.append(node)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_engine_knows_no_server(path: Path) -> None:
    """``pip install sdxl-inpaint`` without the server's extra must work."""
    tree = ast.parse(path.read_text("utf-8"))
    late: list[ast.stmt] = []
    if path in HAND_OVER:
        for node in ast.walk(tree):
            for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if isinstance(node, ast.FunctionDef) or for_types:
                late += server_imports(node)
    early = [ast.unparse(node) for node in server_imports(tree) if node not in late]
    assert not early


LIGHT = ["inpaint", "inpaint.cli", "inpaint.cli.app", "inpaint.weights", "inpaint.image"]


@pytest.mark.parametrize("module", LIGHT)
def test_torch_is_imported_late(module: str) -> None:
    """``--help`` must not wait seconds for torch."""
    heavy = "{'torch', 'diffusers', 'transformers', 'huggingface_hub', 'cv2'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
