"""Rows of the table of files: what was read, and how far the result is from the file's own tool."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of file."""

    kind: str  # such as "LoHa" or "PNG with gAMA"
    written_by: str  # the tool and its version
    read: str  # "yes", "no: …" with the sentence that a user gets, "in part: …"
    difference: float | None  # the largest relative difference; None where there is nothing to compare
    against: str = ""  # what the difference is to, such as "lycoris' forward pass"

    def to_json(self) -> dict[str, Any]:
        """Return the row as it is kept."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the row of a Markdown table."""
        difference = "" if self.difference is None else f"{self.difference:.1e}"
        cells = (self.kind, self.written_by, self.read, difference, self.against)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
