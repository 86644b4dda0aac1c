"""The part of the training that a plan's request sets: the trainer and its own settings. The plan decides the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem
from calculator.estimation.loss_choice import parse_settings
from calculator.inputs.settings import declared
from calculator.inputs.training import Training

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The settings of the training that a plan's request may have.
SETTINGS = (
    "trainer",
    "autocast",
    "loss_type",
    "precompute_ref_log_probs",
    "beta",
    "num_generations",
    "max_completion_length",
    "use_vllm",
    "vllm_mode",
    "vllm_gpu_memory_utilization",
    "vllm_enable_sleep_mode",
    "use_liger_kernel",
    "cut_cross_entropy",
)

#: The needs that replace settings of the training, by setting.
_IN_NEEDS = {"sequence_length": "needs.sequence_length", "micro_batch_size": "needs.effective_batch_size"}


def parse_training(body: Any) -> Training:
    """Return the training that every candidate starts from.

    Raises:
        PlanError: with every problem found, at its dotted path.
    """
    problems = tuple(_decided(body)) if isinstance(body, dict) else ()
    if problems:
        raise PlanError(*problems)
    return parse_settings(body)


def _decided(body: dict[str, Any]) -> Iterator[Problem]:
    fields = {field.name for field in declared(Training)} - {*SETTINGS}
    for name, value in body.items():
        if name in fields:
            where = f"set {_IN_NEEDS[name]}" if name in _IN_NEEDS else "leave it out"
            message = f"a plan decides it, and reads {', '.join(SETTINGS)} only: {where}"
            yield Problem(loc=f"training.{name}", msg=message, input=value)
