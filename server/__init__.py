"""The HTTP server in front of :mod:`inpaint`: its API, its queue and database, its worker processes."""
