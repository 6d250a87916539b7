"""The ``inpaint`` command as ``python -m inpaint``."""

from inpaint.cli import main

if __name__ == "__main__":
    main()
