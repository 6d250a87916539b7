"""The memory that each phase of painting takes at SDXL's real size, counted without a GPU."""
