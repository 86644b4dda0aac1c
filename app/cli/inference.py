"""Estimate the memory and cost of serving a fine-tuned model, and whether it fits.

python -m app inference --model meta-llama/Llama-3.1-8B --method lora --r 16 --tasks 20 --batch_size 4 --gpu "RTX 4090"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.answers.inference import InferenceAnswer
from app.cli import messages, options, request
from app.cli.estimate import status
from app.cli.table import table
from app.forms.fields import INFERENCE_FIELDS
from app.presentation import inference_text
from app.presentation.consequences import with_message
from app.presentation.format import gib, number, percent
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.inference.answer import Inference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    request.add_method_argument(parser)
    parser.add_argument(
        "--request", metavar="FILE", help="a JSON request that the options override; - reads standard input"
    )
    parser.add_argument("--json", action="store_true", help="print the answer of the JSON API")
    request.add_model_arguments(parser)
    options.add_fields(parser, INFERENCE_FIELDS.values())


def run(args: argparse.Namespace) -> int:
    """Print the answer; return its verdict as an exit status."""
    body = _body(args)
    messages.require(body, "model")
    answer = inference(parse_inference(body))
    request.print_answer(args, InferenceAnswer.model_validate(answer), "\n".join(_lines(answer)))
    return status(answer.fit)


def _body(args: argparse.Namespace) -> Any:
    given = options.body_of(args, INFERENCE_FIELDS.values())
    named = request.model(args)
    if named is not None:
        given["model"] = named
    if args.method is not None:
        given = options.merged({"method": {"name": args.method}}, given)
    return request.with_file(args, given)


def _lines(answer: Inference) -> Iterator[str]:
    label = answer.method.facts.label
    yield f"{label} of {inference_text.model_name(answer)}, {inference_text.workload(answer)}"
    yield inference_text.sentence(answer)
    if answer.fit is not None:
        yield from with_message(answer.fit)
    yield inference_text.why(answer)
    yield ""
    required = answer.memory.required_bytes
    yield table(
        ("At the peak", "GiB", "share", "bytes"),
        (
            *(_share(part.component.label, part.bytes, required) for part in inference_text.parts(answer)),
            _share("Required", required, required),
        ),
    )
    yield ""
    yield table(
        ("Pass", "Peak GiB", "at"),
        [
            (inference_text.PASSES[pass_.name], f"{gib(pass_.peak_bytes):,.2f}", pass_.operation)
            for pass_ in answer.memory.passes
        ],
    )
    yield ""
    yield table(
        ("Over the base model", "base", "added", "share"),
        [
            (inference_text.COSTS[cost.name], number(cost.base), number(cost.added), percent(cost.share))
            for cost in answer.costs
        ],
    )
    if answer.merge is not None:
        yield f"\nMerging needs {gib(answer.merge.peak_bytes):,.2f} GiB at {answer.merge.module}. {answer.merge.loss}"
    for title, sentences in (("Warnings", answer.warnings), ("Assumptions", answer.assumptions)):
        if sentences:
            yield f"\n{title}"
            yield from (f"- {line}" for line in sentences)


def _share(label: str, size: int, required: int) -> tuple[str, ...]:
    return label, f"{gib(size):,.2f}", percent(size / required), number(size)
