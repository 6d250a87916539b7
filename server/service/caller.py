"""Who sent a request: a key and what it may do, whatever protocol it came by."""

from dataclasses import dataclass

from server.errors import ForbiddenError

MODEL_SCOPE = "sdxl-inpaint"


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that a request came with; ``key_id`` is empty on an open server."""

    key_id: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises ForbiddenError unless the key may do it."""
        if scope not in self.scopes:
            raise ForbiddenError(f"this key may not use {scope}")


OPEN = Caller("", frozenset({MODEL_SCOPE, "metrics"}))
