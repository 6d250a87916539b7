"""The client of MCP's own SDK: it starts ``inpaint mcp``, as hosts of agents do, with our server to paint."""

import asyncio
import base64
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from cases import FAILING, INPAINT, KEY, OUTPUT, PICTURES, POOR_KEY, PROMPT, URL, WRONG_KEY, Shown, run
from mcp import Client, StdioServerParameters, stdio_client

ROOT = Path(__file__).parents[4]  # whose package is run, even if another one is installed
BOX = [48, 32, 96, 80]
QUICK = {"num_inference_steps": 20, "scheduler": "DDIM", "seed": 7}  # the fewest that /v2 takes


class ToolError(Exception):
    """A tool's answer that is marked as an error."""


async def call(client: Client, tool: str, image: str = "photo.png", **arguments: object) -> Shown:
    """Call a tool, and return the file that it wrote, its preview, and its facts."""
    steps: list[tuple[float, float | None]] = []

    async def heard(done: float, total: float | None, message: str | None) -> None:
        steps.append((done, total))

    given = {"image_path": image, **arguments}
    result = await client.call_tool(tool, given, progress_callback=heard)
    text, *pictures = result.content
    if result.is_error:
        raise ToolError(text.text)
    facts = json.loads(text.text)
    previews = [base64.b64decode(picture.data) for picture in pictures]
    written = [Path(facts["path"]).read_bytes()] if tool != "describe" else []
    return [*written, *previews], {**facts, "steps": steps}


async def inpaint(client: Client, **arguments: object) -> Shown:
    return await call(client, "inpaint", **{"prompt": PROMPT, "box": BOX, **QUICK, **arguments})


async def tools(client: Client) -> Shown:
    found = (await client.list_tools()).tools
    return [], {"names": [tool.name for tool in found], "described": all(tool.description for tool in found)}


Act = Callable[[Client], Awaitable[Shown]]
ACTS: dict[str, Act] = {
    "tools": tools,
    "white": lambda client: inpaint(client, mask_path="white.png", box=None),
    "box": inpaint,
    "again": inpaint,
    "second": lambda client: inpaint(client, seed=8),
    "remove": lambda client: call(client, "remove", box=BOX, seed=7),
    "extend": lambda client: call(client, "extend", prompt=PROMPT, right=48, seed=7),
    "describe": lambda client: call(client, "describe"),
    "bad_field": lambda client: inpaint(client, strength=5),
    "bad_box": lambda client: inpaint(client, box=[0, 0, 500, 80]),
    "bad_size": lambda client: inpaint(client, mask_path="small.png", box=None),
    "not_a_picture": lambda client: inpaint(client, image="text.png"),
    "outside": lambda client: inpaint(client, image="/etc/passwd"),
    "failed": lambda client: inpaint(client, prompt=FAILING),
}


def host(key: str) -> Client:
    """Start ``inpaint mcp`` for a folder of pictures."""
    folder = OUTPUT / f"folder-{key[-4:]}"
    shutil.copytree(PICTURES, folder)
    arguments = ["-m", "inpaint", "mcp", "--folder", str(folder), "--url", URL, "--key", key]
    return Client(stdio_client(StdioServerParameters(command=INPAINT, args=arguments, cwd=ROOT)))


async def all_of(acts: dict[str, Act], key: str) -> dict[str, Shown | Exception]:
    """Do all acts in one session."""
    outcomes: dict[str, Shown | Exception] = {}
    async with host(key) as client:
        for name, act in acts.items():
            try:
                outcomes[name] = await act(client)
            except Exception as error:  # noqa: BLE001 - written down as what the case raised
                outcomes[name] = error
    return outcomes


def outcome(found: Shown | Exception) -> Shown:
    if isinstance(found, Exception):
        raise found
    return found


found = asyncio.run(all_of(ACTS, KEY))
found |= asyncio.run(all_of({"wrong_key": inpaint}, WRONG_KEY))
found |= asyncio.run(all_of({"no_credits": inpaint}, POOR_KEY))
run({name: lambda shown=shown: outcome(shown) for name, shown in found.items()})
