"""The pixels of one request: crop, mask, fill, colour match, blend, paste back. NumPy only, no torch."""
