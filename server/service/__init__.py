"""The life of a request behind every dialect. Knows no HTTP."""
