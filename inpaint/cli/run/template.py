"""Paths with placeholders, such as ``masks/{stem}.png``, among files whose own names may hold braces."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from inpaint.cli.run.inputs import exists, fixed_part
from inpaint.errors import RequestError

_BRACES = re.compile(
    r"\{\{|\}\}|\{([^{}]*)\}"
)  # ``{{`` and ``}}`` stand for one brace, as in Python's format


def read_template(text: str, field: str, known: Iterable[str]) -> str:
    """Check a template, and return it with the braces doubled that belong to names of existing files.

    What exists as it is written is that file or folder, even if it is called ``{stem}``: the whole path, else
    the folders that it begins with.

    Raises:
        RequestError: about ``field``; the rest of the template holds a name that is not in ``known``.
    """
    if not ("{" in text or "}" in text):
        return text
    ends = [len(text), *(at for at in range(len(text) - 1, 0, -1) if text[at] in "/" + os.sep)]
    end = next((end for end in ends if exists(Path(text[:end]))), 0)
    template = text[:end].replace("{", "{{").replace("}", "}}") + text[end:]
    fill_in(template, dict.fromkeys(known, ""), field)
    return template


def placeholders(template: str) -> set[str]:
    """Return the names in a template."""
    return {match[1] for match in _BRACES.finditer(template) if match[1] is not None}


def fixed_folder(template: str) -> Path:
    """Return the folder that all paths of a template lie in."""
    return plain_path(str(fixed_part(template, lambda part: bool(placeholders(part)))))


def plain_path(template: str) -> Path:
    """Return the path that a template without placeholders stands for."""
    return Path(fill_in(template, {}, ""))


def fill_in(template: str, values: Mapping[str, str], field: str) -> str:
    """Return ``template`` with each ``{name}`` replaced, once: a picture may be called ``{seed}.png``.

    Raises:
        RequestError: about ``field``; the template holds a name that is not in ``values``.
    """
    for name in placeholders(template) - values.keys():
        known = ", ".join(f"{{{name}}}" for name in values)
        raise RequestError(
            field, f"may hold {known}, not {{{name}}}; for a name with braces, write {{{{{name}}}}}"
        )
    return _BRACES.sub(lambda match: match[0][0] if match[1] is None else values[match[1]], template)
