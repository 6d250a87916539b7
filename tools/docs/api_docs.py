"""Write the reference half of ``docs/api.md`` from the server's OpenAPI description."""

import asyncio
from pathlib import Path
from typing import Any

from server.app import create_app
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from server.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MARK = "<!-- Below: written by `python -m tools.docs.api_docs`. -->"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the whole page, with a new reference half."""
    kept = PAGE.read_text("utf-8").partition(MARK)[0]
    return f"{kept}{MARK}\n\n{asyncio.run(reference())}"


async def reference() -> str:
    """Return the routes and the fields of a request as Markdown."""
    client = InProcessClient(WorkerSpec())  # never started
    schema = create_app(Settings(data=Path("unused")), client).openapi()
    body = schema["components"]["schemas"]["InpaintBody"]
    return "\n".join([*routes(schema), *fields(body)]) + "\n"


def routes(schema: dict[str, Any]) -> list[str]:
    """Return the lines of the table of routes."""
    lines = ["## Routes", "", "| | | answers |", "|---|---|---|"]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            statuses = ", ".join(sorted(route["responses"]))
            lines.append(f"| `{method.upper()} {path}` | {route['summary']} | {statuses} |")
    return [*lines, ""]


def fields(body: dict[str, Any]) -> list[str]:
    """Return the lines of the table of a request's fields."""
    lines = ["## Fields of a request", "", "| field | | default | |", "|---|---|---|---|"]
    for name, field in body["properties"].items():
        default = "required" if name in body["required"] else f"`{field.get('default')}`"
        lines.append(f"| `{name}` | {values(field)} | {default} | {field.get('description', '')} |")
    return lines


def values(field: dict[str, Any]) -> str:
    """Return the type, range or choices of a field."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(values(kind) for kind in field["anyOf"] if kind["type"] != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "minimum" in field:
        return f"{field['type']}, {field['minimum']:.15g} to {field['maximum']:.15g}"
    return str(field["type"])


if __name__ == "__main__":
    main()
