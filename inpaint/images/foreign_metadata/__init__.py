"""The metadata of other programs: one table for flat JSON, one module for ComfyUI's graph."""
