"""Write the tables of ``docs/files.md``, in an environment with the foreign tools (``make files-table``).

    python -m tools.files [--area loras] [--page-only]

Each area writes its files with the tools that people use, reads them with ours, and compares. Its rows are
kept in ``tools/files/results/``, from which the page is made without any of those tools.
"""

import argparse
import importlib
import json
from pathlib import Path

from tools.files.row import Row

AREAS = {
    "loras": "LoRAs",
    "checkpoints": "Checkpoints",
    "pictures": "Pictures",
    "metadata": "What a picture says about how it was made",
}
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "files.md"
MARK = "<!-- Below: written by `make files-table`. -->"
HEAD = "| kind | written by | read | difference | to |\n|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.files", description="Write docs/files.md.")
    parser.add_argument("--area", choices=AREAS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--page-only", action="store_true", help="write the page from the rows that are kept")
    options = parser.parse_args()
    for area in [] if options.page_only else options.area or AREAS:
        rows: list[Row] = importlib.import_module(f"tools.files.{area}").rows()
        text = json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False)
        (RESULTS / f"{area}.json").write_text(text + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page with new tables."""
    return "\n\n".join([PAGE.read_text("utf-8").partition(MARK)[0] + MARK, *map(_table, AREAS)]) + "\n"


def _table(area: str) -> str:
    kept = json.loads((RESULTS / f"{area}.json").read_text("utf-8"))
    return "\n".join([f"## {AREAS[area]}", "", HEAD, *(Row(**row).to_markdown() for row in kept)])


if __name__ == "__main__":
    main()
