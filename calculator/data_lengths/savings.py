"""The memory of a run on a data set, and the savings of truncation, packing and bucketing by length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.data_lengths.histogram import Lengths
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

#: The shares of samples that truncation leaves whole.
SHARES = (0.99, 0.95, 0.9)

#: The kinds of changes.
Kind = Literal["truncation", "packing", "bucketing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthChange:
    """A change to how samples become batches.

    Attributes:
        kind: The kind of the change.
        changes: The settings, by their paths in the request. Empty for bucketing, which is TrainingArguments'
            group_by_length.
        sentence: Its effect on the samples.
        required_bytes: The required memory with the change. None if the request is refused for the reason in `refusal`.
        saved_bytes: The saved memory. Negative if the change needs more.
        tokens: The tokens that an epoch computes, including padding.
    """

    kind: Kind
    changes: Mapping[str, Any]
    sentence: str
    required_bytes: int | None
    saved_bytes: int | None
    tokens: int
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthAdvice:
    """A run on a data set: its estimate, the tokens of an epoch, and the changes, the largest saving first."""

    estimate: Estimate
    tokens: int
    changes: tuple[LengthChange, ...]


def advice(request: Request, lengths: Lengths) -> LengthAdvice:
    """Estimate a run with the samples of a data set, and with each change.

    Raises:
        PlanError: if the run itself is refused.
    """
    request = with_lengths(request, lengths)
    cut = lengths.cut(request.training.sequence_length) if request.length_given else lengths
    current = estimate(request)
    batch = request.training.micro_batch_size
    changes = [*_truncations(request, cut, current), *_packing(request, cut, current), *_bucketing(cut, current, batch)]
    return LengthAdvice(
        estimate=current,
        tokens=cut.padded_tokens(batch),
        changes=tuple(sorted(changes, key=lambda change: -(change.saved_bytes or 0))),
    )


def with_lengths(request: Request, lengths: Lengths) -> Request:
    """Return the request with the histogram of a data set."""
    return replace(request, training=replace(request.training, sequence_lengths=lengths.pairs))


def _truncations(request: Request, lengths: Lengths, current: Estimate) -> Iterator[LengthChange]:
    for longest in sorted({lengths.percentile(share) for share in SHARES} - {lengths.longest}, reverse=True):
        shorter = sum(count for length, count in lengths.pairs if length > longest)
        sentence = f"cuts {shorter:,} of {lengths.samples:,} samples to {longest:,} tokens"
        training = replace(request.training, sequence_length=longest)
        yield _changed(
            replace(request, training=training, length_given=True),
            current,
            kind="truncation",
            changes={"training.sequence_length": longest},
            sentence=sentence,
            tokens=lengths.cut(longest).padded_tokens(request.training.micro_batch_size),
        )


def _packing(request: Request, lengths: Lengths, current: Estimate) -> Iterator[LengthChange]:
    if request.training.packing or request.training.trainer != "trl-sft":
        return
    rows = lengths.packed_rows(lengths.longest)
    training = replace(
        request.training, packing=True, padding=False, sequence_lengths=None, sequence_length=lengths.longest
    )
    yield _changed(
        replace(request, training=training, length_given=True),
        current,
        kind="packing",
        changes={"training.packing": True, "training.padding": False},
        sentence=f"puts the samples into {rows:,} rows of {lengths.longest:,} tokens, all full",
        tokens=rows * lengths.longest,
    )


def _bucketing(lengths: Lengths, current: Estimate, batch: int) -> Iterator[LengthChange]:
    """Yield the change to bucketing.

    One batch still has the longest samples: bucketing saves computed tokens, but no memory.
    """
    if batch == 1 or len(lengths.pairs) == 1:
        return
    required = current.memory.required_bytes
    yield LengthChange(
        kind="bucketing",
        changes={},
        sentence="puts samples of about the same length into a batch; the batch of the longest needs as much",
        required_bytes=required,
        saved_bytes=0,
        tokens=lengths.bucketed_tokens(batch),
    )


def _changed(request: Request, current: Estimate, **fields: Any) -> LengthChange:
    try:
        after = estimate(request).memory.required_bytes
    except PlanError as error:
        return LengthChange(required_bytes=None, saved_bytes=None, refusal=str(error), **fields)
    return LengthChange(required_bytes=after, saved_bytes=current.memory.required_bytes - after, **fields)
