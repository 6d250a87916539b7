"""SDXL in memory: loading, prompts, the VAE, one UNet call and one denoising step."""
