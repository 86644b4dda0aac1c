"""A reason for or against a configuration, and the format of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.devices.gpus import GIB, MIB
from calculator.inference.multi_adapter import component_bytes, task_bytes
from calculator.planning.reasons.rules import RULES

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate
    from calculator.methods import Method
    from calculator.planning.evaluator import Candidate, Evaluator
    from calculator.planning.needs import Needs
    from calculator.planning.reasons.rules import Rule
    from calculator.speed.step_cost import StepCost
    from calculator.speed.token_cost import TokenCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A sentence with its numbers, for or against, and the rule that it follows."""

    rule: Rule
    stance: Literal["for", "against"]
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A candidate with its estimate and cost, from which its reasons are derived."""

    evaluator: Evaluator
    candidate: Candidate
    answer: Estimate
    cost: StepCost
    #: The price of a token. None if cost is no priority, or if no published run is comparable.
    token_cost: TokenCost | None = None

    @property
    def method(self) -> Method:
        """The candidate's method."""
        return self.candidate.method

    @property
    def needs(self) -> Needs:
        """The needs."""
        return self.evaluator.needs

    @property
    def task_bytes(self) -> int:
        """The bytes that one task adds: its adapter, or a model for full fine-tuning."""
        return task_bytes(self.answer)

    @property
    def base_bytes(self) -> int:
        """The base model's bytes, on all GPUs together."""
        return self.answer.base_bytes

    def component_bytes(self, component: str) -> int:
        """Return a component's bytes at the peak."""
        return component_bytes(self.answer, component)

    def cost_of(self, term: str) -> float:
        """Return one term of the step's cost, relative to the reference."""
        return sum(part.relative for part in self.cost.terms if part.name == term)


def speaks_for(rule: str, sentence: str) -> Reason:
    """Return a reason for a configuration."""
    return Reason(rule=RULES[rule], stance="for", sentence=sentence)


def speaks_against(rule: str, sentence: str) -> Reason:
    """Return a reason against a configuration."""
    return Reason(rule=RULES[rule], stance="against", sentence=sentence)


def size(count: float) -> str:
    """Format bytes for a sentence: 12.3 GiB, 41.9 MiB, 81,920 bytes."""
    if count >= GIB / 10:
        return f"{count / GIB:,.1f} GiB"
    return f"{count / MIB:,.1f} MiB" if count >= MIB / 10 else f"{count:,} bytes"


def millions(count: int) -> str:
    """Format a parameter count for a sentence: "8.03 billion", "41.9 million" or "81,920"."""
    for scale, word in ((10**9, "billion"), (10**6, "million")):
        if count >= scale:
            return f"{count / scale:.3g} {word}"
    return f"{count:,}"


def percent(fraction: float) -> str:
    """Format a share for a sentence: 34 %, 0.52 %."""
    return f"{fraction * 100:.0f} %" if fraction >= 0.0995 else f"{fraction * 100:.2g} %"


def format_factor(relative: float) -> str:
    """Format a relative cost: 1.49 times."""
    return f"{relative:.2f} times"
