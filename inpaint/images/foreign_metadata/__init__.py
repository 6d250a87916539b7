"""What other programs write into pictures: one table for flat JSON, one module for ComfyUI's graph."""
