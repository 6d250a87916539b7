"""The kept rows about metadata are those of the samples that the tests read."""

import json

from tools.files.__main__ import RESULTS
from tools.files.metadata_samples import samples

ROWS = json.loads((RESULTS / "metadata.json").read_text("utf-8"))


def test_every_sample_has_a_row_in_which_other_readers_agree() -> None:
    """A reader of the page can trust a "yes": where another program reads the file, it reads the same."""
    rows = {row["kind"]: row for row in ROWS if not row["kind"].startswith("our own")}
    assert list(rows) == [sample.kind for sample in samples()]
    for sample in samples():
        row = rows[sample.kind]
        assert row["read"].startswith("in part: its " if sample.left_out else "yes")
        assert row["difference"] in (None, 0.0)


def test_our_own_pictures_are_read_by_others() -> None:
    """Each format, 26 pictures; a reader that takes no empty prompt misses one of them."""
    own = [row for row in ROWS if row["kind"].startswith("our own")]
    assert [row["kind"][-4:].strip(" n") for row in own] == ["PNG", "JPEG", "WEBP"]
    assert all(row["read"] == "yes: 26 of 26" for row in own)
    assert all(row["difference"] < 0.1 for row in own)
