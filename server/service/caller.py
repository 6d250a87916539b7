"""The caller of a request: an API key and its scopes, for every protocol."""

from dataclasses import dataclass

from server.errors import ForbiddenError

MODEL_SCOPE = "sdxl-inpaint"


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that a request came with; ``key_id`` is empty on an open server."""

    key_id: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise ForbiddenError unless the key has this scope."""
        if scope not in self.scopes:
            raise ForbiddenError(f"this key may not use {scope}")


OPEN = Caller("", frozenset({MODEL_SCOPE, "metrics"}))
