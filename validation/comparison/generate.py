"""Hold the passes of generate against real modules on the meta device: bytes at each pass's peak, and of a merge."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inference.served_method import served
from validation.tracing.silence import quieten

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.inference.request import InferenceRequest


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("request", help="a file with an inference's request as JSON; - for standard input")


def run(told: argparse.Namespace) -> int:
    """Compare and print; returns 1 where bytes differ, 2 where the request is refused."""
    quieten()
    text = sys.stdin.read() if told.request == "-" else Path(told.request).read_text(encoding="utf-8")
    try:
        rows = list(compared(parse_inference(json.loads(text))))
    except PlanError as error:
        print(error, file=sys.stderr)
        return 2
    for name, estimated, traced in rows:
        print(f"{name}: {estimated:,} for {traced:,} traced, {estimated - traced:+,}")
    return int(any(estimated != traced for _, estimated, traced in rows))


def compared(request: InferenceRequest) -> Iterator[tuple[str, int, int]]:
    """Each pass, and the merge: bytes by the calculator, and by the trace, which runs every token."""
    from validation.reference import generation, merging  # noqa: PLC0415  (takes seconds to import)

    answer = inference(request)
    serving, plan = answer.serving, served(request.method, answer.serving)
    traced = generation.trace(request.model, plan, serving).peaks
    yield from ((each.name, each.peak_bytes, traced[each.name]) for each in answer.memory.passes)
    if answer.merge is not None:
        yield "merge", answer.merge.peak_bytes, merging.trace(request.model, replace(plan, merged=False), serving)
