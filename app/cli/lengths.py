r"""Count the tokens of a data set's samples: the histogram that training.sequence_lengths takes.

python -m app lengths data.jsonl --tokenizer tokenizer.json --output lengths.json
python -m app lengths data.jsonl --tokenizer tokenizer.json --model gpt2 --method lora --micro_batch_size 4

With a model, it also says what truncation, packing and bucketing by length would save. Needs the package tokenizers
(the extra `lengths`), and pyarrow for Parquet files (the extra `parquet`). No code of a repository is run.
"""

from __future__ import annotations

import json
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from app.api.answers.lengths import SHARES, lengths_answer
from app.cli import files, options, request
from app.cli.table import table
from app.interop.data_sets.samples import Texts, size_of
from app.interop.data_sets.tokenizer import token_counts, tokenizer_of
from app.presentation.format import number, percent, sentence, size
from calculator.common.errors import refusal
from calculator.data_lengths.histogram import Lengths, lengths_of
from calculator.data_lengths.savings import advice
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from calculator.data_lengths.savings import LengthAdvice, LengthChange

#: The sentence about messages.
WITHOUT_TEMPLATE = (
    "For messages, only the contents are counted, without the tokens that a chat template adds. Apply it for exact"
    " lengths."
)

#: The interval between updates of the progress bar, in seconds, and its width.
UPDATE_SECONDS, WIDTH = 0.2, 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("data", metavar="DATA", help="a JSON Lines file (.jsonl), or a Parquet file (.parquet)")
    parser.add_argument("--tokenizer", metavar="DIR|FILE", help="a tokenizer.json, or the directory that has it")
    parser.add_argument(
        "--field",
        metavar="NAMES",
        help="the fields of a sample's text, separated by commas (default: text, messages, prompt and completion, ...)",
    )
    parser.add_argument("--output", metavar="FILE", help="write the histogram as JSON, which the page also reads")
    request.add_method_argument(parser)
    request.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the histogram, and the run on it if there is one."""
    lengths, notes = _lengths(args)
    body = request.body(args)
    advised = advice(parse_request(_with_lengths(body, lengths)), lengths) if body else None
    pairs = json.dumps([list(pair) for pair in lengths.pairs])
    if args.output is not None:
        files.write("--output", args.output, f"{pairs}\n")
    if args.json:
        request.print_answer(args, lengths_answer(lengths, advised, notes), "")
        return 0
    request.print_text("\n".join((*_lines(lengths), *notes, *(_advice(advised) if advised is not None else ()))))
    if args.output is None:
        request.print_text(f"\n{pairs}")
    return 0


def _with_lengths(body: Any, lengths: Lengths) -> Any:
    """Return a request body with the histogram. Its length is that of the longest sample."""
    if not isinstance(body, dict):
        return body
    return options.merged(body, {"training": {"sequence_lengths": [list(pair) for pair in lengths.pairs]}})


def _lengths(args: argparse.Namespace) -> tuple[Lengths, tuple[str, ...]]:
    """Return the histogram, and notes on what its lengths leave out."""
    if args.tokenizer is None:
        raise refusal("--tokenizer", "give a tokenizer.json, or the directory that has it", None)
    tokenizer = tokenizer_of(args.tokenizer)
    fields = [name.strip() for name in (args.field or "").split(",") if name.strip()]
    bar = _Bar(size_of(args.data), visible=sys.stderr.isatty())
    texts = Texts(args.data, fields, bar.step)
    lengths = lengths_of(token_counts(tokenizer, texts))
    bar.close()
    if lengths is None:
        if not size_of(args.data):
            raise refusal("DATA", "the file is empty: give one with one sample per line", args.data)
        raise refusal("DATA", "no sample has two tokens: name the field of the text with --field", args.data)
    return lengths, (WITHOUT_TEMPLATE,) if texts.has_messages else ()


class _Bar:
    """A progress bar on standard error, in bytes of the file."""

    def __init__(self, total: int, *, visible: bool) -> None:
        self.total, self.visible = total, visible
        self.done, self._printed = 0, monotonic()

    def step(self, count: int) -> None:
        """Count bytes, and print the bar if it is visible."""
        self.done += count
        if self.visible and monotonic() - self._printed >= UPDATE_SECONDS:
            self._print()

    def close(self) -> None:
        """End the line of the bar."""
        if self.visible:
            self._print()
            sys.stderr.write("\n")

    def _print(self) -> None:
        self._printed = monotonic()
        share = min(1.0, self.done / max(1, self.total))
        sys.stderr.write(f"\r[{'#' * round(share * WIDTH):{WIDTH}}] {share:4.0%} of {size(self.total)}")


def _lines(lengths: Lengths) -> Iterator[str]:
    yield f"{number(lengths.samples)} samples, {number(lengths.tokens)} tokens."
    peaks = f"sample {number(lengths.longest_sample)} with {number(lengths.longest)} tokens: a step with it peaks"
    yield f"The longest is {peaks}."
    shares = ", ".join(f"{percent(share)} up to {number(lengths.percentile(share))}" for share in SHARES)
    yield f"Of the samples, {shares} tokens."
    if lengths.left_out:
        yield f"{number(lengths.left_out)} samples of fewer than two tokens are left out."
    if lengths.rounded_to > 1:
        yield f"Lengths are rounded up to multiples of {number(lengths.rounded_to)}: there are too many distinct ones."


def _advice(advised: LengthAdvice) -> Iterator[str]:
    yield ""
    required = size(advised.estimate.memory.required_bytes)
    yield f"The run requires {required}, and computes {number(advised.tokens)} tokens an epoch, padding included."
    rows = [_row(change, advised.tokens) for change in advised.changes]
    if rows:
        yield table(("Change", "What it does", "Saves", "Tokens an epoch"), rows, left=2)


def _row(change: LengthChange, before: int) -> tuple[str, str, str, str]:
    saves = "refused" if change.saved_bytes is None else size(change.saved_bytes)
    tokens = f"{number(change.tokens)} ({_relative(change.tokens, before)})"
    return sentence(change.kind), change.refusal or change.sentence, saves, tokens


def _relative(tokens: int, before: int) -> str:
    share = tokens / before - 1 if before else 0.0
    return f"{share:+.0%}".replace("-", "−")
