"""The tools that agents call: inpaint, remove, extend, select and describe."""

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ValidationError

import inpaint
from inpaint.errors import InpaintError, RequestError
from inpaint.mcp import arguments as args
from inpaint.mcp.backend import Backend, Painted
from inpaint.mcp.folders import Folders, check_writable, write_new
from inpaint.mcp.pictures import Edit, Sides, box_mask, facts_of, preview, read_mask, read_picture
from inpaint.mcp.selecting import hints_of, selected
from inpaint.request import DEFAULTS, check_settings

_INSTRUCTIONS = (
    "Repaints parts of picture files on this machine. A result is a new file next to the picture, which "
    "stays as it was. Call describe first: it shows the picture and its size in pixels, which a box needs. "
    "Call select to get the mask of an object instead of a box."
)
_PAINTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def tools_server(folders: Folders, backend: Backend) -> MCPServer:
    """Return a server with the tools; it may use files in ``folders`` and paints with ``backend``."""
    server = _Server("inpaint", version=inpaint.__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    tools = Tools(folders, backend)
    for tool in (tools.inpaint, tools.remove, tools.extend, tools.select):
        server.add_tool(tool, annotations=_PAINTS)
    server.add_tool(tools.describe, annotations=_LOOKS)
    return server


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools. Their docstrings are what agents read."""

    folders: Folders
    backend: Backend

    async def inpaint(
        self,
        ctx: Context,
        image_path: args.ImagePath,
        prompt: args.Prompt,
        mask_path: args.MaskPath = None,
        box: args.Box = None,
        negative_prompt: args.NegativePrompt = None,
        seed: args.Seed = -1,
        strength: args.Strength = DEFAULTS["strength"],
        num_inference_steps: args.Steps = DEFAULTS["num_inference_steps"],
        guidance_scale: args.Guidance = DEFAULTS["guidance_scale"],
        scheduler: args.Scheduler = DEFAULTS["scheduler"],
        fill: args.Fill = DEFAULTS["fill"],
    ) -> CallToolResult:
        """Repaint a part of a picture, given as a box or a mask, so that it shows what the prompt describes.

        Answers with the path of the new file, its size, the seed, and a small preview of it.
        """
        settings = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "strength": strength,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "fill": fill,
        }
        return await answered(self._painted(ctx, image_path, settings, mask_path, box))

    async def remove(
        self,
        ctx: Context,
        image_path: args.ImagePath,
        mask_path: args.MaskPath = None,
        box: args.Box = None,
        seed: args.Seed = -1,
    ) -> CallToolResult:
        """Remove what is in a part of a picture, given as a box or a mask, and continue its surroundings.

        Answers with the path of the new file, its size, the seed, and a small preview of it.
        """
        settings = {"prompt": "", "seed": seed, "fill": "telea", "strength": 0.99}
        return await answered(self._painted(ctx, image_path, settings, mask_path, box))

    async def extend(
        self,
        ctx: Context,
        image_path: args.ImagePath,
        prompt: args.Prompt,
        left: args.Added = 0,
        top: args.Added = 0,
        right: args.Added = 0,
        bottom: args.Added = 0,
        seed: args.Seed = -1,
    ) -> CallToolResult:
        """Enlarge a picture, and paint what is seen beyond its edges.

        Answers with the path of the new file, its size, the seed, and a small preview of it.
        """
        settings = {"prompt": prompt, "seed": seed}
        return await answered(self._painted(ctx, image_path, settings, added=(left, top, right, bottom)))

    async def select(
        self,
        image_path: args.ImagePath,
        points: args.Points = None,
        box: args.Around = None,
        what: args.SelectWhat = "object",
        variant: args.SelectVariant = "best",
    ) -> CallToolResult:
        """Make a mask of an object in a picture, which inpaint and remove take as mask_path.

        Answers with the mask's path, the box around what is selected, and a small preview of the picture in
        which everything else is dark.
        """
        return await answered(asyncio.to_thread(self._selected, image_path, points, box, what, variant))

    def _selected(
        self,
        image_path: str,
        points: Sequence[Sequence[float]] | None,
        box: Sequence[int] | None,
        what: str,
        variant: str,
    ) -> "Answer":
        hints = hints_of(points or (), box or None, what, variant)
        path = self.folders.path(image_path, "image_path")
        check_writable(path.parent)
        found = selected(read_picture(path)[1].image, hints)
        mask = write_new(path, found.file, "mask", ".png")
        return Answer({"path": str(mask), **found.facts}, preview(found.shown))

    async def describe(self, image_path: args.ImagePath) -> CallToolResult:
        """Show a picture, its format and size in pixels, and the settings it was painted with, if any."""
        return await answered(asyncio.to_thread(self._described, image_path))

    def _described(self, image_path: str) -> "Answer":
        path = self.folders.path(image_path, "image_path")
        data, picture = read_picture(path)
        return Answer(facts_of(path, data, picture), preview(picture.image))

    async def _painted(
        self,
        ctx: Context,
        image_path: str,
        settings: Mapping[str, object],
        mask_path: str | None = None,
        box: list[float] | None = None,
        added: Sides | None = None,
    ) -> "Answer":
        started = time.monotonic()
        check_settings(settings)
        edit = await asyncio.to_thread(self._edit, image_path, settings, mask_path, box, added)
        progress = _Progress(ctx)
        painted = await self.backend.paint(edit, progress.report)
        return await asyncio.to_thread(_written, edit, painted, started)

    def _edit(
        self,
        image_path: str,
        settings: Mapping[str, object],
        mask_path: str | None,
        box: list[float] | None,
        added: Sides | None,
    ) -> Edit:
        """Read what a call names, and check it before anything is painted."""
        _check_part(mask_path, box, added)
        path = self.folders.path(image_path, "image_path")
        mask_file = self.folders.path(mask_path, "mask_path") if mask_path else None
        check_writable(path.parent)
        data, picture = read_picture(path)
        mask = None
        if mask_file is not None:
            mask = read_mask(mask_file, picture.image.size)
        elif box:
            mask, lengths = box_mask(box, picture.image.size)
            settings = {**settings, **lengths}
        return Edit(path, data, picture, mask, added, settings)


def _check_part(mask_path: str | None, box: list[float] | None, added: Sides | None) -> None:
    """Raise a RequestError unless one thing says which part is painted; agents send "" or [] for nothing."""
    if added is None and bool(mask_path) == bool(box):
        raise RequestError("box", "give either box or mask_path, to say which part is repainted")
    if added is not None and (min(added) < 0 or not any(added)):
        raise RequestError("left", "left, top, right and bottom must be 0 or more, and one of them above 0")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a tool: facts, and a small JPEG."""

    facts: Mapping[str, object]
    preview: bytes


def _written(edit: Edit, painted: Painted, started: float) -> Answer:
    path = write_new(edit.path, edit.file(painted.image, painted.made))
    facts = {
        "path": str(path),
        "width": painted.image.width,
        "height": painted.image.height,
        "seed": painted.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    if painted.warnings:
        facts["warnings"] = list(painted.warnings)
    return Answer(facts, preview(painted.image))


async def answered(work: Awaitable[Answer]) -> CallToolResult:
    """Return the outcome of a tool's work; what its caller can change is an error in one sentence."""
    try:
        answer = await work
    except InpaintError as error:
        sentence = " ".join(str(error).split())
        return CallToolResult(content=[TextContent(type="text", text=sentence)], is_error=True)
    text = TextContent(type="text", text=json.dumps(answer.facts, ensure_ascii=False, default=str))
    return CallToolResult(content=[text, Image(data=answer.preview, format="jpeg").to_image_content()])


class _Server(MCPServer):
    """The SDK's server, but with wrong arguments as one sentence instead of a paragraph for each."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool by name.

        Raises:
            ToolError: there is no such tool, or an argument is missing or of another kind.
        """
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            first = error.__cause__.errors()[0]
            problem = "is required" if first["type"] == "missing" else first["msg"]
            raise ToolError(f"{first['loc'][0]}: {problem}") from error.__cause__


class _Progress:
    """The progress of one call; what is reported must rise."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._last = ctx, -1.0

    async def report(self, done: float, total: float, message: str) -> None:
        if done > self._last:
            self._last = done
            await self._ctx.report_progress(done, total, message)
