"""The APIs that clients speak: from HTTP to an ``Order``, and from records and errors back to HTTP."""
