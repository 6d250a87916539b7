"""What is shown on a terminal: text that may come from a file's maker or a server's caller is made harmless.

A terminal obeys control characters: they can set its title, fill the clipboard or hide what follows. File
names, metadata, errors and a server's answers may hold any of them.
"""

import sys

from inpaint.cli.streams import give_up


def printable(text: str, *, keep: str = "") -> str:
    """Return ``text`` with ``?`` for what a terminal does not show as it is, but for the characters ``keep``.

    That is control characters, also those that turn the direction of writing, and halves of surrogate pairs.
    """
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def say(text: str) -> None:
    """Print a line, or several, on stderr."""
    # Not typer.echo: it would find the stream behind the one that rich has put there, and write into its bar.
    try:
        sys.stderr.write(printable(text, keep="\n") + "\n")
    except OSError:  # the disk of a log is full: no reason to lose a picture
        give_up(sys.stderr)


def show(text: str) -> None:
    """Print a line, or several, on stdout."""
    sys.stdout.write(printable(text, keep="\n") + "\n")
