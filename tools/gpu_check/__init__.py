"""The first half hour on a GPU: every check in order, each with a limit, and one page of verdicts."""
