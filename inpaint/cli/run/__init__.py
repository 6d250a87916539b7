"""``inpaint run``: which pictures to paint, in what order, and what is written."""
