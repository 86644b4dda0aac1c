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

    @property
    def sentence(self) -> str:
        """The place and the message, with a value that has another type or size than it must have."""
        expected, stop, way_out = self.msg.partition(". ")
        given = str(self.input).lower() if isinstance(self.input, bool) else shown(self.input)
        states_value = not self.msg.startswith("must be ") or not isinstance(self.input, str | int | float)
        if not states_value and f"not {given}" not in self.msg:
            expected += f", not {given}"
        message = f"{expected}{stop}{way_out}"
        return f"{self.loc}: {message}" if self.loc else message


class PlanError(ValueError):
    """Raised for an invalid request, with every problem found in it."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.sentence for problem in problems))


def refusal(loc: str, msg: str, value: Any = None) -> PlanError:
    """Return the error for one problem."""
    return PlanError(Problem(loc=loc, msg=msg, input=value))


def shown(value: Any) -> str:
    """Return a value as messages quote it, shortened."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{int(value):,}" if value.bit_length() <= 128 else f"a number of {value.bit_length():,} bits"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
