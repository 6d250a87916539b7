"""Files that other programs see whole or not at all. Imports nothing of this package."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, draft_folder: Path | None = None) -> None:
    """Replace the file ``path`` with ``data`` in one step.

    A reader finds the old content or the new one, never a part; after a power cut too. When writing fails
    or is interrupted, the old file stays and no draft is left behind. Several threads and processes may
    write the same path at the same time: the last one wins.

    Args:
        path: the file; its folder must exist.
        data: its new content.
        draft_folder: the folder of the draft, on the same disk as ``path``; the file's own folder if None.

    Raises:
        OSError: the file could not be written.
    """
    # The draft's name is short, since a file's own name may be as long as the disk allows.
    draft = (draft_folder or path.parent) / f".inpaint-{os.urandom(6).hex()}.part"
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the name without the bytes
        draft.replace(path)
    except BaseException:  # Ctrl-C included
        with suppress(OSError):  # where the folder itself is the problem, there is no draft
            draft.unlink(missing_ok=True)
        raise
