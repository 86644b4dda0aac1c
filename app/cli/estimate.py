"""Estimate the memory of one training run, and whether it fits.

python -m app estimate --model meta-llama/Llama-3.1-8B --method qlora --r 16 --gradient_checkpointing --gpu "RTX 4090"
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from app.api.accuracy.accuracy import accuracy
from app.api.answers.estimate import SingleEstimateAnswer
from app.cli import request
from app.cli.table import table
from app.engines.engine import Client, answered
from app.presentation import verdict
from app.presentation.consequences import with_message
from app.presentation.format import gib, number, parameters, percent
from app.presentation.grades import grade_sentence
from app.presentation.labels import parts
from app.presentation.memory_interval import interval_lines
from calculator.devices import Verdict
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.devices import Fit
    from calculator.estimation.answer import Estimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the estimate; return its verdict as an exit status."""
    plan = parse_request(request.complete_body(args))
    answer = answered(plan, Client(progress=_progress))
    text = "\n".join(lines(plan.method.label, answer))
    request.print_answer(args, SingleEstimateAnswer.model_validate(answer), text)
    return status(answer.fit)


def _progress(what: str) -> None:
    """Print what a trace runs to standard error: it takes seconds to minutes."""
    sys.stderr.write(f"Tracing the real modules: {what}\n")
    sys.stderr.flush()


def status(fit: Fit | None) -> int:
    """Return the exit status of a verdict: 0 if the run fits, or if no device is given."""
    return int(fit is not None and fit.verdict is not Verdict.FITS)


def lines(label: str, plan: Estimate) -> Iterator[str]:
    """Yield the lines of an estimate."""
    counts = plan.parameters
    yield (
        f"{label} of {plan.model.id or plan.model.model_type or 'a model'}: {parameters(counts.trainable)}"
        f" of {parameters(counts.total)} parameters trained ({percent(counts.trainable_fraction)})"
    )
    graded = grade_sentence(plan)
    if graded is not None:
        yield graded
    yield f"{verdict.sentence(plan)}"
    yield f"{verdict.why(plan)}"
    yield from interval_lines(plan.memory)
    drawn = verdict.history_sentence(plan)
    if drawn is not None:
        yield drawn
    yield from verdict.communication_sentences(plan)
    if plan.fit is not None:
        yield from with_message(plan.fit)
    yield accuracy(plan).sentence
    yield ""
    yield breakdown(plan)
    for title, sentences in (("Warnings", plan.warnings), ("Assumptions", plan.assumptions)):
        if sentences:
            yield f"\n{title}"
            yield from (f"- {line}" for line in sentences)


def breakdown(plan: Estimate) -> str:
    """Return the table of the required memory."""
    required = plan.memory.required_bytes
    rows = [
        (part.component.label, f"{gib(part.bytes):,.2f}", percent(part.bytes / required), number(part.bytes))
        for part in parts(plan.memory)
    ]
    return table(
        ("At the peak", "GiB", "share", "bytes"),
        (*rows, ("Required", f"{gib(required):,.2f}", "100 %", number(required))),
    )
