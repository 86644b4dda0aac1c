"""Compare the passes of `generate` with real modules on the meta device: bytes at each pass's peak, and of a merge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inference.served_method import served
from validation.cli.files import read_request
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.inference.request import InferenceRequest


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("request", help="the file of an inference request as JSON; - reads standard input")


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns 1 if bytes differ."""
    silence_libraries()
    rows = list(compared(parse_inference(read_request(args.request))))
    for name, estimated, traced in rows:
        print(f"{name}: {estimated:,} for {traced:,} traced, {estimated - traced:+,}")
    return int(any(estimated != traced for _, estimated, traced in rows))


def compared(request: InferenceRequest) -> Iterator[tuple[str, int, int]]:
    """Yield the name, estimated bytes and traced bytes of each pass and of the merge; the trace runs every token."""
    from validation.tracing import generation, merging  # noqa: PLC0415  (takes seconds to import)

    answer = inference(request)
    serving, plan = answer.serving, served(request.method, answer.serving)
    traced = generation.trace(request.model, plan, serving).peaks
    yield from ((pass_.name, pass_.peak_bytes, traced[pass_.name]) for pass_ in answer.memory.passes)
    if answer.merge is not None:
        yield "merge", answer.merge.peak_bytes, merging.trace(request.model, replace(plan, merged=False), serving)
