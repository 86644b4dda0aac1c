r"""Explain an out-of-memory error: which allocation failed, what is alive there, and which single changes end it.

python -m app diagnose train.log --file axolotl.yaml
python -m app diagnose train.log --model meta-llama/Llama-3.1-8B --method qlora --r 16 --target_modules all-linear \
    --micro_batch_size 4 --sequence_length 4096 --gradient_checkpointing

The exit status is 0 if a tensor of the run has the size that the message states, else 1.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from app.api.answers.diagnose import diagnose_answer, not_reproduced
from app.api.diagnose import diagnosed
from app.cli import files, options, request
from app.cli.table import table
from app.forms.fields import PHASES
from app.interop.imports import FORMATS
from app.presentation.changes import changes_text
from app.presentation.diagnosis_text import sentences, when, when_in_phase
from app.presentation.format import number, sentence, signed, size
from app.presentation.labels import COMPONENTS
from app.presentation.verdict import VERDICTS
from calculator.common.errors import refusal
from calculator.diagnosis.diagnosis import replay_of
from calculator.diagnosis.message import LONGEST
from calculator.diagnosis.plain_pickle import LARGEST
from calculator.diagnosis.written_snapshot import written

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from app.api.diagnose import Diagnosed
    from calculator.diagnosis.change import Change
    from calculator.diagnosis.diagnosis import Diagnosis

    #: A table's head and rows.
    Table = tuple[Sequence[str], Sequence[Sequence[str]]]


SIZED = "Tensors of that size"

_HEAD = ("Tensor", "When", "Times", "Allocated before", "Difference")

#: The most matches that are printed.
MOST_MATCHES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("log", metavar="LOG", nargs="?", help="a file with the error's text; - reads standard input")
    parser.add_argument(
        "--snapshot", metavar="FILE", help="a pickle of torch.cuda.memory._dump_snapshot(); nothing in it is run"
    )
    parser.add_argument(
        "--write_snapshot",
        metavar="FILE",
        help="write the snapshot of the replayed run where the error occurred; pytorch.org/memory_viz shows it",
    )
    parser.add_argument("--file", metavar="FILE", help="a trainer's file or script that describes the run")
    parser.add_argument("--format", choices=FORMATS, help="the tool that the file is for (default: its keys decide)")
    request.add_method_argument(parser)
    request.add_arguments(parser)
    options.add_fields(parser, PHASES)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis."""
    result = diagnosed(_body(args))
    if args.write_snapshot is not None:
        files.write_bytes("--write_snapshot", args.write_snapshot, _written(result.diagnosis))
    if args.json:
        answer = diagnose_answer(result.diagnosis, result.body, result.imported)
        request.print_text(answer.model_dump_json(indent=2))
    else:
        request.print_text("\n".join(lines(result)))
    return int(result.diagnosis.found == "none")


def _body(args: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {"request": options.merged(request.body(args), options.body_of(args, PHASES))}
    if args.log is None and args.snapshot is None:
        message = "is required: a file with the text of the error, or - for standard input; or give --snapshot FILE"
        raise refusal("LOG", message)
    if args.log is not None:
        body["message"] = _text("LOG", args.log)[-LONGEST:]
    if args.snapshot is not None:
        raw = files.content("--snapshot", args.snapshot, LARGEST)
        body["snapshot"] = b64encode(raw).decode("ascii")
    if args.file is not None:
        body |= {"content": _text("--file", args.file), "format": args.format}
    return body


def _written(diagnosis: Diagnosis) -> bytes:
    """Return the pickled snapshot of the replay on what the error left PyTorch."""
    replay = replay_of(diagnosis.estimate)
    capacity = diagnosis.message.capacity_bytes
    return written(replay, capacity, capacity + replay.context_bytes)


def _text(option: str, path: str) -> str:
    return files.content(option, path).decode("utf-8", "replace")


def lines(result: Diagnosed) -> Iterator[str]:
    """Yield the lines of a diagnosis."""
    diagnosis = result.diagnosis
    for warning in not_reproduced(result.imported):
        yield f"Note: {warning}"
    yield from sentences(diagnosis)
    if diagnosis.in_phases:
        yield from _section("Tensors of that size outside the steps", _phase_matches(diagnosis))
    if diagnosis.matches:
        yield from _section(SIZED, _matches(result))
        yield from _section("Alive at the first", _alive(result))
    if diagnosis.changes:
        rows = [_change(change) for change in diagnosis.changes]
        head = ("Single change", "Saves", "Verdict", "Ends it")
        yield from _section("", (head, rows))


def _section(title: str, rows: Table) -> Iterator[str]:
    yield ""
    if title:
        yield f"{title}:"
    yield table(*rows, left=2 if rows[0] == _HEAD else 1)


def _matches(result: Diagnosed) -> Table:
    rows = [
        (
            match.tensor,
            when(match.step, match.phase),
            number(match.count),
            size(match.allocated_bytes),
            signed(match.difference_bytes),
        )
        for match in result.diagnosis.matches[:MOST_MATCHES]
    ]
    more = len(result.diagnosis.matches) - len(rows)
    return _HEAD, [*rows, (f"and {more} more", "", "", "", "")] if more > 0 else rows


def _phase_matches(diagnosis: Diagnosis) -> Table:
    rows = [
        (
            match.tensor,
            when_in_phase(match),
            number(match.count),
            size(match.allocated_bytes),
            signed(match.difference_bytes),
        )
        for match in diagnosis.in_phases[:MOST_MATCHES]
    ]
    return _HEAD, rows


def _alive(result: Diagnosed) -> Table:
    by_component = [
        (COMPONENTS[name].label, size(count)) for name, count in result.diagnosis.alive_by_component.items()
    ]
    return ("Component", "Bytes"), by_component


def _change(change: Change) -> tuple[str, ...]:
    ends = {None: "unknown", True: "yes", False: "no"}[change.ends]
    return sentence(changes_text(change.changes)), size(change.saved_bytes), VERDICTS[change.verdict], ends
