"""Stability's v2beta API for editing: inpaint, erase and outpaint."""
