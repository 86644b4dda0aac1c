r"""Estimate every phase of a run, and name the first that does not fit.

python -m app run --model meta-llama/Llama-3.1-8B --method lora --r 16 --gradient_checkpointing --gpu "RTX 4090" \
    --eval_strategy epoch --per_device_eval_batch_size 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.api.answers.run import RunAnswer
from app.cli import options, request
from app.cli.table import table
from app.forms.fields import RUN
from app.presentation import run_text, speed_text
from app.presentation.format import number
from calculator.devices import Verdict
from calculator.run.request import parse_run
from calculator.run.run import whole_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.run.answer import WholeRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    request.add_method_argument(parser)
    request.add_arguments(parser)
    options.add_fields(parser, RUN)


def run(args: argparse.Namespace) -> int:
    """Print the phases; return the verdict as an exit status."""
    body = options.merged(request.complete_body(args), options.body_of(args, RUN))
    answer = whole_run(parse_run(body))
    request.print_answer(args, RunAnswer.model_validate(answer), "\n".join(_lines(answer)))
    return int(answer.verdict not in {None, Verdict.FITS})


def _lines(answer: WholeRun) -> Iterator[str]:
    yield f"{answer.estimate.method.label} of {run_text.model_name(answer)}"
    yield run_text.sentence(answer)
    yield ""
    yield table(
        ("Phase", "GPU GiB", "required", "host GiB", "mapped", "disk GiB", "verdict"),
        [
            (
                run_text.PHASES[phase.name],
                run_text.size(phase.gpu_bytes),
                run_text.size(phase.required_bytes),
                run_text.host_size(phase),
                run_text.size(phase.host_file_bytes),
                run_text.size(phase.disk_bytes),
                run_text.verdict_of(phase),
            )
            for phase in answer.phases
        ],
    )
    yield from (f"No figures: {run_text.PHASES[phase.name]}. {phase.reason}" for phase in answer.unanswered)
    yield ""
    yield from _time(answer)
    for title, files in (("A checkpoint", answer.files), ("The merged model", answer.merged_files)):
        if files:
            yield ""
            yield table((title, "bytes"), [(file.name, number(file.bytes)) for file in files])
    for title, sentences in (("Warnings", answer.warnings), ("Assumptions", answer.assumptions)):
        if sentences:
            yield f"\n{title}"
            yield from (f"- {line}" for line in sentences)


def _time(answer: WholeRun) -> Iterator[str]:
    time = answer.time
    if time is None:
        yield f"The time is not estimated. {answer.time_refusal}"
        return
    yield speed_text.sentence(time)
    if time.cost is not None:
        yield f"At the price of the request they cost {speed_text.interval(time.cost)}."
    yield from (f"- {speed_text.list_cost(cost)}" for cost in time.list_costs)
    yield speed_text.basis(time)
    yield speed_text.accuracy()
