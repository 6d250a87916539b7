"""LoRA: its notation in requests, its files, its layers, and merging into and out of a model."""
