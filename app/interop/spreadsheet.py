"""An estimate as CSV for a spreadsheet, and as a Markdown summary."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING

from app.interop.exports.header import title
from app.presentation import verdict
from app.presentation.format import exact, percent, size
from app.presentation.labels import COMPONENTS, PHASES
from app.resources import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

COLUMNS = ("component", "name", "dtype", "count", "bytes", "formula", "substituted", "source")


def as_csv(plan: Estimate) -> str:
    """Return every row alive at the peak and the memory beyond the tensors; the bytes add up to the required memory."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for component in plan.memory.components:
        if not component.rows:
            derivation = (component.formula, component.substituted, component.source)
            writer.writerow((component.name, component.name, "", 1, component.bytes, *derivation))
        for row in component.rows:
            writer.writerow(
                (component.name, row.name, row.dtype, row.count, row.bytes, row.formula, row.substituted, row.source)
            )
    for row in plan.memory.overheads:
        writer.writerow(
            ("overhead", row.name, row.dtype, row.count, row.bytes, row.formula, row.substituted, row.source)
        )
    return text.getvalue()


def as_markdown(request: Request, plan: Estimate, address: str) -> str:
    """Return the verdict, the breakdown and the assumptions; `address` is that of the plan's page."""
    return "\n".join(_lines(request, plan, address))


def _lines(request: Request, plan: Estimate, address: str) -> Iterator[str]:
    memory = plan.memory
    yield f"# {title(request, plan)}"
    yield ""
    card = f"On {verdict.device_name(plan.fit)}: " if plan.fit else ""
    yield f"**{card}{verdict.sentence(plan)}** {verdict.why(plan)}"
    yield ""
    yield "| At the peak | Size | Share | Bytes |"
    yield "|---|---:|---:|---:|"
    for component in memory.components:
        yield _line(COMPONENTS[component.name].label, component.bytes, memory.required_bytes)
    yield _line(
        COMPONENTS["overhead"].label, memory.required_bytes - memory.peak_allocated_bytes, memory.required_bytes
    )
    yield _line("**Required**", memory.required_bytes, memory.required_bytes)
    yield ""
    for phase in memory.phases:
        yield f"- Peak of the {PHASES[phase.name]}: {size(phase.peak_bytes)} ({exact(phase.peak_bytes)})"
    trained = plan.parameters
    yield f"- Trained: {trained.trainable:,} parameters, {percent(trained.trainable_fraction)} of {trained.total:,}"
    yield f"- Checkpoint of the trained parameters: {size(plan.saved_bytes)} ({exact(plan.saved_bytes)})"
    for heading, sentences in (("Warnings", plan.warnings), ("Assumptions", plan.assumptions)):
        if sentences:
            yield ""
            yield f"{heading}:"
            yield ""
            yield from (f"- {sentence}" for sentence in sentences)
    yield ""
    yield f"Planned with Headroom {VERSION}: <{address}>"
    yield ""


def _line(label: str, count: int, whole: int) -> str:
    return f"| {label} | {size(count)} | {percent(count / whole)} | {count:,} |"
