"""The server's commands: serve, keys, credits and top."""
