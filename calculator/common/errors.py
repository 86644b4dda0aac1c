"""The one error that a plan can raise."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a request: where, what, and the value seen.

    `loc` is a dotted path into the request (`training.sequence_length`).
    """

    loc: str
    msg: str
    input: Any = None


class PlanError(ValueError):
    """A request that has no answer, with every problem found in it."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.loc}: {p.msg}" if p.loc else p.msg for p in problems))


def refusal(loc: str, msg: str, value: Any = None) -> PlanError:
    """The error for a single problem."""
    return PlanError(Problem(loc=loc, msg=msg, input=value))
