"""The answer of `/limits.json`."""

from typing import Literal

from app.api.answers.answer import Answer, described
from app.api.answers.limits import LimitsAnswer
from calculator.devices import Verdict


class CellAnswer(Answer):
    """The run with one micro-batch size and one sequence length."""

    micro_batch_size: int = described("Sequences per step and device.", 4)
    sequence_length: int = described("Tokens per sequence.", 2048)
    verdict: Verdict | None = described("Whether the run fits; null if it is refused.", "fits")
    required_bytes: int | None = described("The required memory; null if the run is refused.", 21_494_661_120)
    headroom_bytes: int | None = described(
        "Usable bytes minus required_bytes; null if the run is refused.", 3_756_097_536
    )
    reserved: Literal["rule", "replay"] | None = described(
        "How required_bytes and the verdict were found: the allocator is replayed for runs near the limit. Null if the"
        " run is refused.",
        "replay",
    )
    reason: str = described("Why the run is refused; empty if it is not.", "")


class FitMapAnswer(Answer):
    """A map of verdicts: one row per sequence length, one column per micro-batch size."""

    micro_batch_sizes: tuple[int, ...] = described("The columns.", [1, 2, 4])
    sequence_lengths: tuple[int, ...] = described("The rows.", [1024, 2048, 4096])
    rows: tuple[tuple[CellAnswer, ...], ...] = described("The cells, row by row.", [[{"verdict": "fits"}]])


class PlanLimitsAnswer(Answer):
    """The largest value of each setting, and the map of verdicts."""

    limits: tuple[LimitsAnswer, ...] = described("One limit per setting.", [{"solve_for": "r", "value": 1064}])
    map: FitMapAnswer = described("Verdicts by micro-batch size and sequence length.", {"micro_batch_sizes": [1, 2, 4]})
