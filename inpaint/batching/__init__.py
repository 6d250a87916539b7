"""Who is painted when, and what that costs. Imports no torch and takes any clock."""
