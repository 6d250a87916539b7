"""A small reader of Dockerfiles, which refuses everything that it does not know.

It knows the syntax of `Dockerfile.cuda`: stages, continued lines, variables with defaults, flags, lists in
JSON; no parser directives, no here-documents, no ONBUILD. It also reads `.dockerignore` files.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_KNOWN = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN STOPSIGNAL USER WORKDIR"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")
_FLAG = re.compile(r"--([a-z-]+)=(\S+)\s+")


class DockerfileError(Exception):
    """Syntax that this reader, or Docker, does not understand."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction as it is written: variables are not filled in."""

    name: str  # in capitals
    value: str  # without its flags
    flags: Mapping[str, str] = field(default_factory=dict)
    line: int = 0

    def words(self) -> list[str]:
        """Return its arguments, written in JSON or separated by spaces."""
        if self.value.startswith("["):
            return [str(word) for word in json.loads(self.value)]
        return self.value.split()

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the name and value of each assignment of ENV, LABEL or ARG; ARG's value may be empty."""
        for word in shlex.split(self.value):
            name, _, value = word.partition("=")
            yield name, value


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: the instructions from one FROM to the next."""

    base: str  # variables filled in
    name: str  # "" if it has none
    instructions: tuple[Instruction, ...]

    def last(self, name: str) -> Instruction:
        """Return the last instruction of that name, which is the one in effect.

        Raises:
            DockerfileError: there is none.
        """
        found = [instruction for instruction in self.instructions if instruction.name == name]
        if not found:
            raise DockerfileError(f"the stage from {self.base} has no {name}")
        return found[-1]

    def environment(self, arguments: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables that its ENV instructions set, with ``arguments`` for its ARGs."""
        scope = Scope(arguments or {})
        for instruction in self.instructions:
            scope.take(instruction)
        return scope.environment


@dataclass(slots=True)
class Scope:
    """The variables of a stage while its instructions are read."""

    given: Mapping[str, str]  # as --build-arg
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def take(self, instruction: Instruction) -> None:
        """Apply an ENV or an ARG; other instructions change nothing."""
        if instruction.name not in ("ENV", "ARG"):
            return
        for name, value in instruction.pairs():
            filled = self.fill(value)
            if instruction.name == "ENV":
                self.environment[name] = filled
            else:
                self.arguments[name] = self.given.get(name, filled)

    def fill(self, text: str) -> str:
        """Fill in the variables of ``text``; of the base image's, only PATH is known."""
        known = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return fill(text, known | self.arguments | self.environment)


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Fill in ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` in ``text``.

    Raises:
        DockerfileError: a variable without default has no value; Docker would silently leave it empty.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = variables.get(name) or match[3]
        if found is None and name not in variables:
            raise DockerfileError(f"{text!r} uses ${name}, which nothing sets")
        return found or ""

    return _VARIABLE.sub(value, text)


def read(text: str, given: Mapping[str, str] | None = None) -> list[Stage]:
    """Read the stages of a Dockerfile, with ``given`` in place of the ARGs before the first FROM.

    Raises:
        DockerfileError: it has unknown syntax.
    """
    before: dict[str, str] = {}
    stages: list[tuple[str, str, list[Instruction]]] = []
    for instruction in instructions(text):
        if instruction.name == "FROM":
            base, _, name = instruction.value.partition(" AS ")
            stages.append((fill(base, before), name.strip(), []))
        elif stages:
            stages[-1][2].append(instruction)
        elif instruction.name == "ARG":
            before |= {name: (given or {}).get(name, value) for name, value in instruction.pairs()}
        else:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} stands before any FROM")
    return [Stage(base, name, tuple(found)) for base, name, found in stages]


def instructions(text: str) -> Iterator[Instruction]:
    """Yield every instruction in order."""
    parts: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            if re.match(r"#\s*(syntax|escape|check)\s*=", line):
                raise DockerfileError(f"line {number}: parser directives are not understood here")
            continue
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            yield _instruction(" ".join(parts), number)
            parts = []
    if parts:
        raise DockerfileError("the last line is continued")


def _instruction(text: str, line: int) -> Instruction:
    name, _, value = text.partition(" ")
    if name not in _KNOWN.split():
        raise DockerfileError(f"line {line}: {name} is not understood here")
    if "<<" in value:
        raise DockerfileError(f"line {line}: here-documents are not understood here")
    value, flags = value.strip(), {}
    while match := _FLAG.match(value):
        flags[match[1]] = match[2]
        value = value[match.end() :]
    return Instruction(name, value, flags, line)


class Ignore:
    """The patterns of a ``.dockerignore``; the last one that matches a file decides."""

    def __init__(self, text: str) -> None:
        stripped = (line.strip() for line in text.splitlines())
        lines = [line for line in stripped if line and not line.startswith("#")]
        names = [line.removeprefix("!").strip("/") for line in lines]
        self._rules = [
            (not line.startswith("!"), re.compile(_regex(name)))
            for line, name in zip(lines, names, strict=True)
        ]
        self._back = [name for line, name in zip(lines, names, strict=True) if line.startswith("!")]

    def __call__(self, path: str) -> bool:
        """Return True if the build does not see the file; an ignored folder's files are ignored, too."""
        pure = PurePosixPath(path)
        names = [path, *(str(parent) for parent in pure.parents if parent.name)]
        ignored = False
        for ignores, pattern in self._rules:
            if any(map(pattern.fullmatch, names)):
                ignored = ignores
        return ignored

    def enters(self, folder: str) -> bool:
        """Return False if the build sees no file in a folder, so that it need not be searched."""
        return not self(folder) or any(name.startswith(f"{folder}/") for name in self._back)


def _regex(pattern: str) -> str:
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(pieces.get(part) or re.escape(part) for part in parts)


def context(root: Path, ignore: Ignore) -> list[str]:
    """Return the files below ``root`` that a build sees, by their path from there."""
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if ignore.enters((here / name).as_posix())]
        found += [(here / name).as_posix() for name in files]
    return sorted(name for name in found if not ignore(name))
