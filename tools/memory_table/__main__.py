"""Print the table of memory plans that the documentation shows: ``python -m tools.memory_table``."""

from inpaint.memory import GIB, PLANS, MemoryPlan, choose_plan
from tools.memory_table.phases import FULL, Phases
from tools.memory_table.schedule import SPARE_GIB, play

# Free memory of cards of 6, 8, 12, 16, 24 and 80 GB with a desktop on them.
FREE_GIB = (5.5, 7.3, 11.3, 15.3, 23.3, 79.0)
_HEAD = (
    "| free GiB | plan | most pictures in a step | compiled and recorded | torch takes at most, GiB |",
    "|---:|---|---:|---|---:|",
)


def rows(phases: Phases) -> list[str]:
    """Return a row of the table for each size of card."""
    made = []
    for free in FREE_GIB:
        plan = choose_plan(int(free * GIB), vae_in_fp32=phases.vae_dtype == FULL)
        outcome = play(plan, phases, free)
        most = f"{max(outcome.most_gib.values()):.1f}" if outcome.fits else f"too much to {outcome.failed}"
        made.append(f"| {free} | {plan.name} | {max(outcome.cap // 2, 1)} | {_prepared(plan)} | {most} |")
    return made


def _prepared(plan: MemoryPlan) -> str:
    if plan.unet != "resident" or not plan.prepared_slots:
        return "no"
    most = plan.prepared_slots // 2
    return "calls of one picture" if most == 1 else f"calls of up to {most} pictures"


def main() -> None:
    phases = Phases()
    print(f"Counted, not measured: allocations at 1024² in fp16, {SPARE_GIB} GiB left free.\n")
    print("\n".join([*_HEAD, *rows(phases)]))
    print("\nWith a VAE in fp32 (a single file, or force_upcast):\n")
    print("\n".join([*_HEAD, *rows(phases.with_vae_in_fp32())]))
    print("\nPlans:", ", ".join(f"{plan.name} from {plan.needs_gib} GiB" for plan in PLANS))


if __name__ == "__main__":
    main()
