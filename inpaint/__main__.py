"""``python -m inpaint`` is the ``inpaint`` command."""

from inpaint.cli import main

if __name__ == "__main__":
    main()
