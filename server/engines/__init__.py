"""Engine clients: their interface, in this process, in worker processes, and routing between replicas."""
