"""The order in which requests are painted, and forecasts of their cost; no torch, and any clock."""
