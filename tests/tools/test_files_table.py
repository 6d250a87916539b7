"""docs/files.md says what its kept rows say."""

from tools.files.__main__ import PAGE, page


def test_the_page_is_made_of_the_kept_rows() -> None:
    """After a change of the rows: ``python -m tools.files --page-only``."""
    assert PAGE.read_text("utf-8") == page()
