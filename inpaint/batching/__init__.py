"""Decides when each request is painted, and predicts its cost. Imports no torch and takes any clock."""
