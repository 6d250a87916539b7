"""The web API of AUTOMATIC1111's web UI and of Forge, ``/sdapi/v1``."""
