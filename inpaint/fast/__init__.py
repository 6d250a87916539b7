"""Faster forward passes of the UNet; ``optimizations`` names the optimizations and combines them."""
