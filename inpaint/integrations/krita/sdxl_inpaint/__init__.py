"""A Krita plugin: repaints the selection with an sdxl-inpaint server, as a new layer.

It runs in Krita's own Python (3.8 or newer) and needs nothing but Krita's PyQt. ``client``, ``painting`` and
``pixels`` know no Krita; ``canvas``, ``form`` and ``docker`` do.
"""

try:
    import krita  # noqa: F401 - only Krita has it
except ModuleNotFoundError:  # a Python without Krita, which tests the first three
    pass
else:
    from .docker import register

    register()
