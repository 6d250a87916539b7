"""The settings of the docker, by the names of the API's fields, all as text."""

from __future__ import annotations

from typing import Mapping

DEFAULTS: Mapping[str, str] = {
    "url": "http://127.0.0.1:8000",
    "key": "",
    "prompt": "",
    "negative_prompt": "",
    "strength": "90",  # per cent
    "samples": "1",
    "num_inference_steps": "25",
    "seed": "",  # random
    "soft": "",  # or "true"
}


def request_fields(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a request, without its pictures; what is empty is left to the server."""
    fields = {name: value.strip() for name, value in settings.items() if name not in ("url", "key")}
    fields["strength"] = f"0.{int(fields['strength']):02}"
    fields["output_format"] = "png"  # without loss, or no pixel would stay as it was
    return {name: value for name, value in fields.items() if value}
