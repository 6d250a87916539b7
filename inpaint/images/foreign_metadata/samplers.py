"""The names that other programs have for samplers, and ours for them.

A1111 writes ``DPM++ 2M`` and the schedule type ``Karras``, before version 1.9 ``DPM++ 2M Karras``; ComfyUI
``dpmpp_2m`` and ``karras``; programs that save its pictures in A1111's format ``dpmpp_2m_karras``; InvokeAI
``dpmpp_2m_k``; NovelAI ``k_dpmpp_2m``. All of them fold to ``dpm++ 2m``, the name of a row of ``SCHEDULERS``.
"""

from collections.abc import Mapping

from inpaint.errors import shown
from inpaint.schedulers import SCHEDULERS

_KARRAS = "karras"
# What evenly spaced timesteps are called; all others are spaced in ways that we do not have.
_PLAIN = ("", "uniform", "normal", "simple", "ddim uniform", "native", "default")
# The names of a schedule that may end a sampler's name, the longest first.
_ENDINGS = (
    "align your steps", "linear quadratic", "polyexponential", "ddim uniform", "sgm uniform", "exponential",
    "kl optimal", "automatic", "uniform", "normal", "simple", _KARRAS, "turbo", "beta", "k",
)  # fmt: skip
_MAX_NAME = 100  # characters


def scheduler_for(sampler: str, schedule: str = "") -> tuple[str | None, str | None]:
    """Return our name of another program's sampler, the nearest one, and what is not as it was.

    Args:
        sampler: its name in A1111, ComfyUI, InvokeAI, NovelAI and their relatives, or ours.
        schedule: the name of the spacing of its steps, if it is written on its own.

    Returns:
        None if no sampler of ours is near; and a sentence about what we lack, None if it is the same.
    """
    stem, ending = _split(_folded(sampler[:_MAX_NAME]))
    spacing = _folded(schedule[:_MAX_NAME])
    if spacing in ("", "automatic"):
        spacing = ending or spacing
    rows = _ROWS.get(stem)
    if rows is None:
        return None, f"its sampler {shown(sampler)} is not one of ours"
    if spacing == "automatic":  # A1111 then takes Karras for those that it has it for
        return rows.get(True) or rows[False], None
    karras = spacing == _KARRAS
    if karras in rows and (karras or spacing in _PLAIN):
        return rows[karras], None
    spaced = shown(schedule or spacing or "uniform")
    problem = f"its sampler {shown(sampler)} with the schedule {spaced} is not one of ours"
    return rows.get(karras) or rows[not karras], problem


def nearest_scheduler(sampler: str, schedule: str = "") -> str:
    """Return our name of a sampler, or of the nearest one that we have, whatever its name.

    As A1111 since 1.9, which takes its first sampler, DPM++ 2M, for a name that it does not know.

    Args:
        sampler: as for :func:`scheduler_for`.
        schedule: as for :func:`scheduler_for`.
    """
    found, _ = scheduler_for(sampler, schedule)
    if found is None:
        stem, ending = _split(_folded(sampler[:_MAX_NAME]))
        near = next((name for start, name in _NEAREST if stem.startswith(start)), "DPM++ 2M")
        unspaced = _folded(schedule[:_MAX_NAME]) in ("", "automatic")
        found, _ = scheduler_for(near, ending if unspaced and ending else schedule)
    assert found is not None, "every name in the table is that of a row"
    return found


# Samplers that we lack, by the beginnings of their folded names, and those nearest to them.
_NEAREST = (
    ("dpm++ 2s", "DPM++ 2S"),
    ("dpm++ 2m sde", "DPM++ 2M SDE"),
    ("dpm++ 3m", "DPM++ 2M SDE"),
    ("dpm++ sde", "DPM++ 2S"),
    ("dpm fast", "DPM++ 2S"),
    ("dpm adaptive", "DPM++ 2S"),
    ("heun", "Heun"),
    ("euler a", "Euler a"),
    ("euler", "Euler"),
    ("restart", "Euler"),
    ("lcm", "Euler"),
    ("ipndm", "PLMS"),
    ("uni pc", "UniPC"),
    ("unipc", "UniPC"),
    ("ddim", "DDIM"),
)


def _folded(name: str) -> str:
    """Return what the spellings of a name have in common."""
    text = " ".join(name.casefold().replace("_", " ").replace("dpmpp", "dpm++").split())
    text = text.removeprefix("k ").replace(" gpu", "").replace(" ancestral", " a").replace("kdpm 2", "dpm2")
    return "dpm2" + text[5:] if text == "dpm 2" or text.startswith("dpm 2 ") else text


def _split(name: str) -> tuple[str, str]:
    """Split a folded name into the sampler and the schedule that its end may name."""
    for ending in _ENDINGS:
        if name.endswith(" " + ending):
            return name[: -len(ending) - 1], _KARRAS if ending == "k" else ending
    return name, ""


def _rows() -> Mapping[str, Mapping[bool, str]]:
    """Return our names by the folded name of the sampler, and by whether its steps have Karras spacing."""
    rows: dict[str, dict[bool, str]] = {}
    for ours, spec in SCHEDULERS.items():
        for name in (ours, *spec.known_as):
            stem, ending = _split(_folded(name))
            rows.setdefault(stem, {})[ending == _KARRAS] = ours
    return rows


_ROWS = _rows()
