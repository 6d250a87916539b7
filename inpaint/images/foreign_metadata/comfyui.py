"""ComfyUI: the graph of nodes that made a picture, in its text ``prompt``.

A node is ``{"class_type": …, "inputs": {name: value or [id of another node, number of its output]}}``. The
standard nodes are known by their inputs, which their relatives of other authors share. Links are followed in
loops with a bound, never by recursion: a stranger's graph may be deep, cyclic or no graph at all.
Source: ``nodes.py`` and ``comfy_extras/nodes_custom_sampler.py`` of ComfyUI.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inpaint.images.foreign_metadata.flat import model_name
from inpaint.images.foreign_metadata.found import Found, json_object

CHUNK = "prompt"
_MAX_NODES = 5_000
_MAX_HOPS = 50  # from a value to the node that holds it
_SIDES = ("positive", "negative")  # also the order of the outputs of a node that has both
# Inputs that lead from a conditioning to its texts, in the order of reading.
_TEXTS = (
    "text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value", "string_a", "string_b",
    "conditioning", "conditioning_to", "conditioning_from", "conditioning_1", "conditioning_2",
)  # fmt: skip
_PRIMITIVE = ("value", "int", "float", "number", "string", "text", "seed", "noise_seed")


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    inputs: Mapping[str, Any]


_Graph = Mapping[str, _Node]


def read(texts: Mapping[str, str]) -> Found | None:
    """Return the settings of the first sampler in the graph that made a picture; None if there is none.

    Of a sampler and a refiner, or of a second pass over an enlarged picture, the first decides most.
    """
    graph = _graph(json_object(texts.get(CHUNK)) or {})
    sampler = _first_sampler(graph)
    if sampler is None:
        return None
    values = {
        "prompt": _text(graph, sampler, "positive"),
        "negative_prompt": _text(graph, sampler, "negative"),
        "num_inference_steps": _value(graph, sampler, "steps", "sigmas"),
        "guidance_scale": _value(graph, sampler, "cfg", "guider"),
        "seed": _value(graph, sampler, "seed", "noise_seed", "noise"),
    }
    return Found(
        {name: value for name, value in values.items() if value not in (None, "")},
        sampler=_value(graph, sampler, "sampler_name", "sampler") or _kind_at(graph, sampler, "sampler"),
        schedule=_value(graph, sampler, "scheduler", "sigmas")
        or _kind_at(graph, sampler, "sigmas").removesuffix("Scheduler"),
        model=model_name(_value(graph, sampler, "ckpt_name", "unet_name", "model", "guider")),
        tool="ComfyUI",
    )


def _graph(value: Mapping[str, Any]) -> _Graph:
    """Return the entries that are nodes."""
    nodes = {}
    for name, entry in list(value.items())[:_MAX_NODES]:
        kind, inputs = (entry.get("class_type"), entry.get("inputs")) if isinstance(entry, dict) else (0, 0)
        if isinstance(kind, str) and isinstance(inputs, dict):
            nodes[name] = _Node(kind, inputs)
    return nodes


def _link(value: object) -> tuple[str, int] | None:
    """Return the node and the output that an input is linked to; None if it holds a value."""
    if not (isinstance(value, list) and len(value) == 2):
        return None
    node, output = value
    return (str(node), output) if isinstance(node, str | int) and isinstance(output, int) else None


def _links(node: _Node) -> Iterator[str]:
    for value in node.inputs.values():
        if link := _link(value):
            yield link[0]


def _first_sampler(graph: _Graph) -> _Node | None:
    """Return the sampler farthest from the picture, of those that lead to the first output that has one."""
    used = {name for node in graph.values() for name in _links(node)}
    outputs = [name for name in graph if name not in used] or list(graph)
    outputs.sort(key=lambda name: not graph[name].kind.startswith("Save"))
    seen: set[str] = set()
    for output in outputs:
        samplers = [node for node in _upstream(graph, output, seen) if _is_sampler(node)]
        if samplers:
            return samplers[-1]
    return None


def _upstream(graph: _Graph, start: str, seen: set[str]) -> Iterator[_Node]:
    """Yield the nodes that lead to one, the nearest first; each only once, see ``seen``."""
    waiting = deque([start])
    while waiting:
        name = waiting.popleft()
        if name in seen or name not in graph:
            continue
        seen.add(name)
        yield graph[name]
        waiting.extend(_links(graph[name]))


def _is_sampler(node: _Node) -> bool:
    inputs = node.inputs
    return {"steps", "cfg"} <= inputs.keys() or ("sigmas" in inputs and "sampler" in inputs)


def _value(graph: _Graph, node: _Node, *names: str) -> object:
    """Return the value of the first of ``names`` that a node has, from the node that it is linked to."""
    for _ in range(_MAX_HOPS):
        found = next((node.inputs[name] for name in names if name in node.inputs), None)
        link = _link(found)
        if link is None:
            return found if isinstance(found, str | int | float) else None
        if link[0] not in graph:
            return None
        node, names = graph[link[0]], tuple(dict.fromkeys((*names, *_PRIMITIVE)))
    return None


def _kind_at(graph: _Graph, node: _Node, name: str) -> str:
    """Return the class of the node that an input is linked to; a few name what they do there only."""
    link = _link(node.inputs.get(name))
    return graph[link[0]].kind if link and link[0] in graph else ""


def _text(graph: _Graph, sampler: _Node, side: str) -> str:
    """Return the texts that one side's conditioning was made of, joined by commas."""
    if side not in sampler.inputs and (link := _link(sampler.inputs.get("guider"))):
        sampler = graph.get(link[0], sampler)
    found = sampler.inputs.get(side)
    if found is None and side == _SIDES[0]:
        found = sampler.inputs.get("conditioning")  # a guider without a negative side
    texts: dict[str, None] = {}  # CLIPTextEncodeSDXL often has the same text for both encoders
    waiting: list[object] = [found]
    seen: set[tuple[str, int]] = set()
    while waiting:
        value = waiting.pop()
        link = _link(value)
        if isinstance(value, str) and value.strip():
            texts[value.strip()] = None
        elif link and link not in seen and link[0] in graph:
            seen.add(link)
            waiting += reversed(_sources(graph[link[0]], link[1]))
    return ", ".join(texts)


def _sources(node: _Node, output: object) -> list[object]:
    """Return the inputs of a node that the text of one of its outputs comes from."""
    if node.kind == "ConditioningZeroOut":
        return []
    if all(side in node.inputs for side in _SIDES):  # ControlNetApplyAdvanced, InpaintModelConditioning
        return [node.inputs[_SIDES[1] if output == 1 else _SIDES[0]]]
    return [node.inputs[name] for name in _TEXTS if name in node.inputs]
