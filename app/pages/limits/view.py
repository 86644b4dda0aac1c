"""How much room a plan has on its card: the largest value of each setting, and the batches and sequences that fit."""

from dataclasses import dataclass
from typing import Any

from app.api.answers.estimate import Answer, described
from app.api.answers.limits import LimitsAnswer, answer_of, limits_of
from calculator.devices import Verdict
from calculator.estimate.request import parse_request
from calculator.limits.fit_map import Cell, FitMap, fit_map
from calculator.limits.limits import Limit


class CellAnswer(Answer):
    """The plan at one micro-batch and one sequence length."""

    micro_batch_size: int = described("Sequences per step and device.", 4)
    sequence_length: int = described("Tokens per sequence.", 2048)
    verdict: Verdict | None = described("Whether it fits; null where it is refused.", "fits")
    required_bytes: int | None = described("What it requires of the card; null where it is refused.", 21_494_661_120)
    headroom_bytes: int | None = described("Usable less required; null where it is refused.", 3_756_097_536)
    reason: str = described("Why it is refused; empty where it is not.", "")


class FitMapAnswer(Answer):
    """A row a sequence length, a column a micro-batch."""

    micro_batch_sizes: tuple[int, ...] = described("The columns.", [1, 2, 4])
    sequence_lengths: tuple[int, ...] = described("The rows.", [1024, 2048, 4096])
    rows: tuple[tuple[CellAnswer, ...], ...] = described("The cells, row by row.", [[{"verdict": "fits"}]])


class RoomAnswer(Answer):
    """The largest value of each setting that a plan can be solved for, and the map of what fits."""

    limits: tuple[LimitsAnswer, ...] = described("A limit a setting.", [{"solve_for": "r", "value": 1064}])
    map: FitMapAnswer = described("Micro-batches by sequence lengths.", {"micro_batch_sizes": [1, 2, 4]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The limits of a plan, everything else as it is, and the map around it."""

    limits: tuple[Limit, ...]
    map: FitMap

    def answer(self) -> RoomAnswer:
        """The same for a script."""
        rows = tuple(tuple(_cell(cell) for cell in row) for row in self.map.rows)
        grid = {"micro_batch_sizes": self.map.micro_batch_sizes, "sequence_lengths": self.map.sequence_lengths}
        return RoomAnswer(
            limits=tuple(answer_of(each) for each in self.limits),
            map=FitMapAnswer.model_validate({**grid, "rows": rows}),
        )


def room_of(body: Any) -> Room:
    """The room of an estimate's request.

    Raises:
        PlanError: where the request is wrong, names no device, or the real stack refuses the combination.
    """
    request = parse_request(body)
    return Room(limits=limits_of(request), map=fit_map(request))


def _cell(cell: Cell) -> dict[str, Any]:
    fit = cell.estimate.fit if cell.estimate else None
    return {
        "micro_batch_size": cell.micro_batch_size,
        "sequence_length": cell.sequence_length,
        "verdict": fit.verdict if fit else None,
        "required_bytes": cell.estimate.memory.required_bytes if cell.estimate else None,
        "headroom_bytes": fit.headroom_bytes if fit else None,
        "reason": cell.reason,
    }
