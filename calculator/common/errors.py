"""The errors of a request that cannot be answered."""

from dataclasses import asdict, dataclass, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a request: its place, a message and the value.

    `loc` is a dotted path into the request (`training.sequence_length`).
    """

    loc: str
    msg: str
    input: Any = None

    def __post_init__(self) -> None:
        """Convert settings in `input` to a value that JSON can represent."""
        if is_dataclass(self.input) and not isinstance(self.input, type):
            object.__setattr__(self, "input", asdict(self.input))


class PlanError(ValueError):
    """Raised for an invalid request, with every problem found in it."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.loc}: {p.msg}" if p.loc else p.msg for p in problems))


def refusal(loc: str, msg: str, value: Any = None) -> PlanError:
    """Return the error for one problem."""
    return PlanError(Problem(loc=loc, msg=msg, input=value))
