"""Where engines run: the client interface, in this process, in worker processes, and routing between them."""
