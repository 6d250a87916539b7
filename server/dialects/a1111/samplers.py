"""A1111's samplers and schedules: the lists of them, and the one of ours that a request's names mean."""

from dataclasses import dataclass

from inpaint.images.foreign_metadata.samplers import nearest_scheduler, scheduler_for
from inpaint.images.infotext import sampler_pair
from inpaint.schedulers import SCHEDULERS
from server.dialects.a1111.fields import Reading
from server.dialects.a1111.models import Sampler, ScheduleType

_DEFAULT, _AUTOMATIC = "Euler", "automatic"
# Menus have only the ancestral one of these two, which is painted with the other, the nearest that we have.
_IN_MENUS = {"DPM++ 2S": "DPM++ 2S a"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sampler that paints a request, and what the request asked for if that is another one."""

    scheduler: str  # a name of SCHEDULERS
    name: str  # A1111's
    schedule: str | None
    instead_of: str | None


def chosen(reading: Reading) -> Chosen:
    """Return the sampler of a request; as in A1111, an unknown name is no error.

    Raises:
        RequestError: a name is no text.
    """
    sampler = reading.text("sampler_name") or reading.text("sampler_index", _DEFAULT)
    schedule = reading.text("scheduler", _AUTOMATIC)
    scheduler = nearest_scheduler(sampler, schedule)
    _, problem = scheduler_for(sampler, schedule)
    asked = f"{sampler[:60]} ({schedule[:60]})" if problem else None
    return Chosen(scheduler, *sampler_pair(scheduler), asked)


def samplers() -> list[Sampler]:
    """Return the samplers by the names that clients have in their menus."""
    found: dict[str, Sampler] = {}
    for scheduler, spec in SCHEDULERS.items():
        name, _ = sampler_pair(scheduler)
        name = _IN_MENUS.get(name, name)
        listed = found.setdefault(name, Sampler(name=name, aliases=[]))
        listed.aliases += [known for known in (scheduler, *spec.known_as) if known != name]
    return list(found.values())


def schedule_types() -> list[ScheduleType]:
    """Return the spacings of steps: the sampler's own choice, and Karras'."""
    return [
        ScheduleType(name=_AUTOMATIC, label="Automatic"),
        ScheduleType(name="karras", label="Karras", default_rho=7.0),
    ]
