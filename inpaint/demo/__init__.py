"""The model that needs no download: what the name ``demo`` means."""
