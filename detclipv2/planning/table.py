"""Tables of a training plan for a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from detclipv2.planning.training_plan import Plan


def plan_tables(plan: Plan, *, price_per_gpu_hour: float | None) -> RenderableType:
    """Steps, operations, memory, then time and cost, and what would not run."""
    parts: list[RenderableType] = [_steps(plan), Text(), _flops(plan), Text(), _memory(plan), Text(), _time(plan)]
    parts += [Text(line, style="bold") for line in _summary(plan, price_per_gpu_hour=price_per_gpu_hour)]
    parts += [Text(f"will not run: {advice}", style="red") for advice in plan.advice]
    return Group(*parts)


def _table(title: str, first: str, columns: Sequence[str]) -> Table:
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _steps(plan: Plan) -> Table:
    hardware = "CPUs" if plan.gpu is None else plan.gpu.name
    columns = ("images a step", "a process", "at a time", "texts a step", "steps an epoch", "steps")
    table = _table(f"{plan.recipe} on {plan.num_processes} x {hardware}", "steps", columns)
    for kind in plan.types:
        numbers = (
            kind.images,
            kind.images_per_process,
            kind.images_at_a_time,
            kind.num_texts,
            kind.steps_per_epoch,
            kind.num_steps,
        )
        table.add_row(kind.supervision, *(f"{number:,}" for number in numbers))
    table.add_row(
        "all", "", "", "", "", f"{sum(kind.steps_per_epoch for kind in plan.types):,}", f"{_num_steps(plan):,}"
    )
    return table


def _num_steps(plan: Plan) -> int:
    return sum(kind.num_steps for kind in plan.types)


def _flops(plan: Plan) -> Table:
    table = _table("operations", "GFLOPs", [kind.supervision for kind in plan.types])

    def row(label: str, values: Sequence[float]) -> None:
        table.add_row(label, *(f"{value / 1e9:,.1f}" for value in values))

    images = [kind.image for kind in plan.types]
    row("an image: backbone", [image.backbone.total for image in images])
    row("  neck", [image.neck.total for image in images])
    row("  head", [image.head.total for image in images])
    row("  losses", [image.losses for image in images])
    row("  all, of which forward", [image.model for image in images])
    row("    forward", [image.forward for image in images])
    row("  computed again, besides", [image.recomputed for image in images])
    row("a text: encoder", [kind.text.total for kind in plan.types])
    row("a step of a process", [kind.step_flops for kind in plan.types])
    row("  computed again, besides", [kind.recomputed_flops for kind in plan.types])
    share = [kind.total_flops / plan.total_flops for kind in plan.types]
    table.add_row("share of the training", *(f"{value:.0%}" for value in share))
    return table


def _memory(plan: Plan) -> Table:
    table = _table("memory of a process at the peak of a step", "GB", [kind.supervision for kind in plan.types])
    for part in plan.types[0].memory.parts:
        table.add_row(part, *(f"{kind.memory.parts[part] / 1e9:.2f}" for kind in plan.types))
    table.add_row("all", *(f"{kind.memory.total / 1e9:.2f}" for kind in plan.types))
    if plan.gpu is not None:
        share = [kind.memory.total / 1e9 / plan.gpu.memory_gb for kind in plan.types]
        table.add_row(f"of {plan.gpu.memory_gb:.0f} GB", *(f"{value:.0%}" for value in share))
    return table


def _time(plan: Plan) -> Table:
    table = _table("time", "", ("TFLOP/s", "MFU", "HFU", "s a step", "hours", "from"))
    for kind in plan.types:
        if kind.speed is None or kind.step_s is None:
            table.add_row(kind.supervision, "-", "-", "-", "-", "-", "not measured")
            continue
        again = 1 + kind.recomputed_flops / kind.step_flops
        speeds = (kind.speed.slow, kind.speed.fast)
        peak = None if plan.gpu is None else plan.gpu.peak_flops_per_s
        table.add_row(
            kind.supervision,
            _range([speed / 1e12 for speed in speeds]),
            "-" if peak is None else _range([100 * speed / peak for speed in speeds]) + "%",
            "-" if peak is None else _range([100 * speed * again / peak for speed in speeds]) + "%",
            _range(kind.step_s),
            _range([kind.num_steps * seconds / 3600 for seconds in kind.step_s]),
            kind.speed.source,
        )
    return table


def _range(ends: Sequence[float]) -> str:
    """Both ends to three digits, or one where they are the same."""
    low, high = (f"{end:,.0f}" if end >= 100 else f"{end:#.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _summary(plan: Plan, *, price_per_gpu_hour: float | None) -> list[str]:
    lines = [f"{plan.total_flops:.3g} model FLOPs in {_num_steps(plan):,} steps"]
    if plan.hours is None:
        return [*lines, "hours: not known, as no rate was measured on this hardware: add --measure on it"]
    unit = "process" if plan.gpu is None else "GPU"
    total = [hours * plan.num_processes for hours in plan.hours]
    lines.append(f"{_range(plan.hours)} hours, {_range(total)} {unit}-hours")
    if price_per_gpu_hour is not None:
        cost = _range([hours * price_per_gpu_hour for hours in total])
        lines.append(f"cost {cost} at {price_per_gpu_hour:g} a {unit}-hour")
    return lines
