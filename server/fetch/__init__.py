"""The fetching of callers' URLs; no other package of the server opens them."""
