"""The dialects next to the hosted API: each with its routes, and the shape of the errors below its paths."""

from collections.abc import Callable, Sequence

from server.dialects.a1111.routes import a1111
from server.dialects.dialect import Dialect
from server.dialects.intake import Intake
from server.dialects.openai.routes import openai
from server.dialects.stability.routes import stability

# In the order of the documentation.
DIALECTS: Sequence[Callable[[Intake], Dialect]] = (openai, a1111, stability)
