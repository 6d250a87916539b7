"""``inpaint run``: its options, the pictures to paint, and the files that it writes."""
