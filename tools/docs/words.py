"""List what the page says and its catalogues do not translate; exit with 1 if there is anything.

    python -m tools.docs.words

A catalogue, ``server/web/js/words/de.js``, is ``export default`` and a JSON object: the English sentence, as
``t()`` or ``index.html`` has it, and its translation.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

WEB = Path(__file__).parents[2] / "server" / "web"
CATALOGUES = sorted((WEB / "js" / "words").glob("*.js"))
_CALL = re.compile(r"(?<![\w.$])(?<!function )t\(\s*")
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"\s*[,)]')
_COMMENT = re.compile(r"(?:^\s*/?\*|(?:^|\s)//).*$", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_]{2}")
_PLACEHOLDER = re.compile(r"\{\w+\}")
_ATTRIBUTES = ("title", "aria-label", "placeholder")


class SentenceError(ValueError):
    """A call of ``t`` whose text is no literal, so that no tool finds it."""


def main() -> int:
    """Print the differences, and return the exit status."""
    found = problems()
    good = f"nothing is missing: {len(sentences())} sentences, {len(CATALOGUES)} languages"
    print("\n".join(found) or good)
    return 1 if found else 0


def problems() -> list[str]:
    """Return a line for each sentence that a catalogue lacks, has in vain or has with other placeholders."""
    wanted = sentences()
    lines = []
    for path in CATALOGUES:
        words = catalogue(path)
        lines += [f"{path.name}: missing: {text!r}" for text in sorted(wanted - words.keys())]
        lines += [f"{path.name}: not used: {text!r}" for text in sorted(words.keys() - wanted)]
        unlike = [text for text, translation in words.items() if not _agree(text, translation)]
        lines += [f"{path.name}: other placeholders: {text!r}" for text in unlike]
    return lines


def _agree(text: str, translation: str) -> bool:
    return sorted(_PLACEHOLDER.findall(text)) == sorted(_PLACEHOLDER.findall(translation))


def catalogue(path: Path) -> dict[str, str]:
    """Return the translations of one language."""
    code = path.read_text("utf-8").strip()
    found: dict[str, str] = json.loads(code.removeprefix("export default ").removesuffix(";"))
    return found


def sentences() -> set[str]:
    """Return every English text that the page can show and that is its own."""
    parser = _Texts()
    parser.feed((WEB / "index.html").read_text("utf-8"))
    found = {text for text in parser.found if _WORD.search(text)}
    for path in (WEB / "js").rglob("*.js"):
        if path not in CATALOGUES:
            found |= set(literals(path.read_text("utf-8"), path.name))
    return found


def literals(code: str, name: str) -> list[str]:
    """Return the texts of the calls of ``t`` in a module."""
    code = _COMMENT.sub("", code)
    found = []
    for call in _CALL.finditer(code):
        literal = _LITERAL.match(code, call.end())
        if not literal:
            start = code[call.start() :][:60]
            raise SentenceError(f"{name}: t() needs a literal in double quotes: {start!r}")
        found.append(str(json.loads(f'"{literal[1]}"')))
    return found


class _Texts(HTMLParser):
    """The texts and labels of ``index.html`` that ``translatePage`` looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._skipped = ""
        self._in_body = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_body = self._in_body or tag == "body"
        if tag == "code" or values.get("translate") == "no":
            self._skipped = self._skipped or (tag if tag != "input" else "")
        elif not self._skipped:
            self.found |= {value for name in _ATTRIBUTES if (value := values.get(name))}

    def handle_endtag(self, tag: str) -> None:
        self._skipped = "" if tag == self._skipped else self._skipped

    def handle_data(self, data: str) -> None:
        if self._in_body and not self._skipped:
            self.found.add(data.strip())


if __name__ == "__main__":
    sys.exit(main())
