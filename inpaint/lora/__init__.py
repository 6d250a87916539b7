"""Everything about LoRA: its notation, its files, its layers, and the ways into and out of a model."""
