"""What the tests of the image and of `docs/deploy` share: those files read, and what they may name."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from server.app import create_app
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from server.settings import Settings
from tests.support.paths import ROOT
from tools.container.dockerfile import Stage, read

DEPLOY = ROOT / "docs" / "deploy"
FILES = ("compose.yaml", "env.example", "nginx.conf", "kubernetes.yaml", "kuberay.yaml", "inpaint.service")
YAML = tuple(name for name in FILES if name.endswith(".yaml"))
# Those of Settings, and what the engine and the command line read by themselves.
VARIABLES = {"INPAINT_MODELS", "INPAINT_TRACEBACK", *(f"INPAINT_{n.upper()}" for n in Settings.model_fields)}


def dockerfile() -> str:
    return (ROOT / "Dockerfile.cuda").read_text("utf-8")


def image() -> Stage:
    """The last stage: what runs."""
    return read(dockerfile())[-1]


def text(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text(name)))


def walk(value: Any) -> Iterator[Any]:
    """Every mapping, list and scalar in a document."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


@cache
def routes() -> frozenset[str]:
    """The paths that the application answers."""
    settings = Settings(data=Path(tempfile.gettempdir()) / "never-made")
    return frozenset(create_app(settings, InProcessClient(WorkerSpec())).openapi()["paths"])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))
