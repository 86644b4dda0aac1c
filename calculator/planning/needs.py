"""The plan request's `needs`: what the fine-tuned model must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import PlanError, Problem
from calculator.inputs.settings import setting
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.names import MethodName

Priority = Literal["quality", "speed", "memory", "cost"]

#: The default order of priorities. Cost needs a price, and is a priority only if it is named.
USUAL_PRIORITIES: tuple[Priority, ...] = ("quality", "speed", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The requirements of a run, and the criteria that rank configurations that meet them."""

    sequence_length: int = setting(
        2048, label="Sequence length", help="Tokens per sequence.", minimum=2, maximum=16_777_216, unit="tokens"
    )
    effective_batch_size: int = setting(
        16,
        label="Effective batch size",
        help="Sequences per optimizer step: micro-batch size times gradient accumulation steps times GPUs.",
        minimum=1,
        maximum=65_536,
    )
    tasks: int = setting(
        1, label="Tasks to serve", help="How many tasks are fine-tuned on this model.", minimum=1, maximum=1_000_000
    )
    switch_per_request: bool = setting(
        False,
        label="Switch per request",
        help="Whether requests for different tasks alternate, so that all adapters stay on the GPU.",
    )
    must_merge: bool = setting(
        False, label="Must merge", help="Whether the served model must have no adapter: it is merged into the weights."
    )
    frozen_base: bool = setting(
        False, label="Immutable base", help="Whether the base model's weights must stay unchanged for every task."
    )
    max_trainable_fraction: float | None = setting(
        None,
        label="Largest trained share",
        help="The largest share of all parameters that may be trained, from 0 to 1.",
        minimum=0,
        maximum=1,
        example=0.01,
    )
    priorities: tuple[Priority, ...] = setting(
        USUAL_PRIORITIES,
        label="Priorities",
        help="The criteria that rank the configurations that fit, most important first; omitted ones come last. The "
        "criterion cost is the price of a token: it needs device.price_per_hour or a GPU with a list price.",
    )

    @property
    def order(self) -> tuple[Priority, ...]:
        """All priorities, in order; cost only if it is named."""
        return tuple(dict.fromkeys((*self.priorities, *USUAL_PRIORITIES)))

    @property
    def switches(self) -> bool:
        """Whether several tasks switch per request."""
        return self.switch_per_request and self.tasks > 1

    def check(self) -> None:
        """Refuse needs that contradict each other.

        Raises:
            PlanError: naming each field to change.
        """
        problems = tuple(self._contradictions())
        if problems:
            raise PlanError(*problems)

    def _contradictions(self) -> Iterator[Problem]:
        twice = [name for name in dict.fromkeys(self.priorities) if self.priorities.count(name) > 1]
        if twice:
            message = f"each priority has one place, and {', '.join(twice)} is named twice: name it once"
            yield Problem(loc="needs.priorities", msg=message, input=list(self.priorities))
        if self.must_merge and self.frozen_base:
            message = "merging changes the weights that frozen_base keeps: set only one of them"
            yield Problem(loc="needs.must_merge", msg=message, input=True)
        if self.must_merge and self.switches:
            message = (
                f"merged weights serve one task, and {self.tasks:,} switch per request: keep the adapters unmerged"
                " (must_merge false), or serve a merged copy for each task (switch_per_request false)"
            )
            yield Problem(loc="needs.must_merge", msg=message, input=True)
        if self.switch_per_request and self.tasks == 1:
            message = "with one task, there is nothing to switch: set the number of tasks, or switch_per_request false"
            yield Problem(loc="needs.tasks", msg=message, input=1)


def excluded_by_needs(name: MethodName, needs: Needs, model: Model) -> tuple[str, str] | None:
    """Return the rule by which the needs exclude a method, and why, or None."""
    facts = METHODS[name].facts
    label = facts.label
    if needs.must_merge and facts.mergeable is False:
        return "stays_beside", f"{label} can't be merged, and must_merge is set."
    if needs.frozen_base and facts.trains_base:
        return "immutable_base", f"{label} changes all {model.parameters:,} parameters of the base that must stay."
    if needs.switches and facts.trains_base:
        return (
            "copy_per_task",
            f"{label} makes {needs.tasks:,} models, which can't be switched from request to request.",
        )
    return None
