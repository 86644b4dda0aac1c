"""The answer of `python -m app lengths --json`: the lengths of a data set's samples, and what shorter samples save."""

from typing import Any

from app.api.answers.answer import Answer, described
from calculator.data_lengths.histogram import Lengths
from calculator.data_lengths.savings import Kind, LengthAdvice

#: The shares of samples whose lengths are stated.
SHARES = (0.5, 0.9, 0.95, 0.99)


class LengthChangeAnswer(Answer):
    """A change to how samples become batches."""

    kind: Kind = described("What is changed.", "truncation")
    changes: dict[str, Any] = described(
        "The settings, by their paths in the request.", {"training.sequence_length": 512}
    )
    sentence: str = described("What it does to the samples.", "cuts 100 of 10,000 samples to 512 tokens")
    required_bytes: int | None = described("The required memory with it; null if it is refused.", 9_640_607_744)
    saved_bytes: int | None = described("What it saves of the required memory.", 1_000_000_000)
    tokens: int = described("The tokens that an epoch computes, padding included.", 2_720_000)
    refusal: str = described("Why it is refused; empty if it is not.", "")


class LengthAdviceAnswer(Answer):
    """A run on the data set."""

    required_bytes: int = described("The required memory of the run: that of its longest micro-batch.", 10_640_607_744)
    tokens: int = described("The tokens that an epoch computes, padding included.", 3_100_000)
    changes: tuple[LengthChangeAnswer, ...] = described("Changes, the largest saving first.", [{"kind": "truncation"}])


class LengthsAnswer(Answer):
    """The samples of a data set by length."""

    sequence_lengths: tuple[tuple[int, int], ...] = described(
        "Each length with its number of samples: training.sequence_lengths of a request.", [[256, 9000], [1024, 100]]
    )
    samples: int = described("The number of samples.", 9100)
    tokens: int = described("The tokens of all samples.", 2_406_400)
    longest: int = described("The most tokens of a sample.", 1024)
    longest_sample: int = described("The first sample that has them, from 1. A step with it peaks.", 4217)
    percentiles: dict[str, int] = described("The length that a share of the samples does not exceed.", {"0.95": 256})
    rounded_to: int = described("The multiple to which lengths are rounded up; 1 if they are exact.", 1)
    left_out: int = described("Samples of fewer than two tokens.", 0)
    notes: tuple[str, ...] = described("What the lengths do not have.", [])
    run: LengthAdviceAnswer | None = described("The run of the request; null without one.", None)


def lengths_answer(lengths: Lengths, advice: LengthAdvice | None, notes: tuple[str, ...] = ()) -> LengthsAnswer:
    """Convert a histogram, and the run on it, to an answer."""
    run = None
    if advice is not None:
        required = advice.estimate.memory.required_bytes
        run = {"required_bytes": required, "tokens": advice.tokens, "changes": advice.changes}
    return LengthsAnswer.model_validate(
        {
            "sequence_lengths": lengths.pairs,
            "percentiles": {f"{share:g}": lengths.percentile(share) for share in SHARES},
            "notes": notes,
            "run": run,
            **{name: getattr(lengths, name) for name in _SAME},
        },
        from_attributes=True,
    )


_SAME = ("samples", "tokens", "longest", "longest_sample", "rounded_to", "left_out")
