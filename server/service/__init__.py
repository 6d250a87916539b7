"""The life of a request, the same for every dialect. Knows no HTTP."""
