"""The one place that opens a caller's URL."""
