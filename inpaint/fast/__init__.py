"""Quicker ways through the UNet with the same result; ``optimizations`` names them and puts them together."""
