"""The ComfyUI node, as the file that ``inpaint comfyui install`` copies into ComfyUI's ``custom_nodes``."""
