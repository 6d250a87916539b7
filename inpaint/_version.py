"""The version, for ``inpaint.__version__``, for metadata in pictures, and for the build of the wheel."""

__version__ = "0.1.0"
