"""One module for each API that clients speak: the wire to an ``Order``, results and errors back."""
