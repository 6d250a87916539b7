"""Training of the demo model: a tiny SDXL inpainting checkpoint that paints coloured shapes and some things.

    python -m tools.train_demo --work WORKDIR --output inpaint/demo/model [--start inpaint/demo/model]

Reproducible from its seed, resumable at any step, two to three hours at most on two CPU cores.
"""
