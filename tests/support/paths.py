"""Where the tests find the repository's files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
STUB_WORKER = Path(__file__).with_name("stub_worker.py")
