"""The HTTP server in front of :mod:`inpaint`. Nothing here yet: the engine comes first."""
