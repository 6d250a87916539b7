"""Quicker ways through the UNet with the same result; ``levers`` names them and puts them together."""
