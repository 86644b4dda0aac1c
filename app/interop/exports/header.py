"""The comment at the head of an exported file: the request, its estimate, and the assumptions."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from app.presentation import verdict
from app.presentation.format import exact, size
from app.resources import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.interop.exports.exported import NotExpressed
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

WIDTH = 100


def title(request: Request, plan: Estimate) -> str:
    """Return the method and the model in a line."""
    name = plan.model.id or f"a {plan.model.model_type} of {plan.model.parameters:,} parameters"
    return f"{request.method.title} of {name}"


def header(request: Request, plan: Estimate, run: Sequence[str], not_expressed: Sequence[NotExpressed] = ()) -> str:
    """Return the comment. `run` has the lines that explain how to run the file."""
    lines = [f"{title(request, plan)}. Planned with Headroom {VERSION}.", "", *run, "", *_figures(plan)]
    if not_expressed:
        lines += ["", "Where this file differs from the run:"]
        lines += [f"- {setting.loc} {_shown(setting.value)}: {setting.why}" for setting in not_expressed]
    for heading, sentences in (("Assumptions:", plan.assumptions), ("Note:", plan.warnings)):
        if sentences:
            lines += ["", heading, *(f"- {sentence}" for sentence in sentences)]
    return "\n".join(_commented(lines))


def _figures(plan: Estimate) -> Iterator[str]:
    memory = plan.memory
    allocated = memory.peak_allocated_bytes + memory.library_workspace_bytes
    yield f"Allocated at the peak: {_size_and_bytes(memory.peak_allocated_bytes)}."
    yield f"torch.cuda.max_memory_allocated(): {_size_and_bytes(allocated)}, library workspaces included."
    yield f"Required of the GPU, as nvidia-smi shows it: {_size_and_bytes(memory.required_bytes)}."
    if plan.fit is not None:
        yield f"On {verdict.device_name(plan.fit)}: {verdict.sentence(plan)}"


def _size_and_bytes(count: int) -> str:
    return f"{size(count)} ({exact(count)})"


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _commented(lines: Sequence[str]) -> Iterator[str]:
    """Yield each line after a #, wrapped. A line break in a value cannot end the comment."""
    for line in lines:
        text = " ".join(line.split())
        hanging = "  " if text.startswith("- ") else ""
        for part in wrap(text, WIDTH - 2, subsequent_indent=hanging, break_long_words=False) or [""]:
            yield f"# {part}".rstrip()
