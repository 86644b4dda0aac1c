"""The loads to measure: small checkpoints, which are written first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.measure.step_cases import HALF, METHODS, SMALL, TINY, StepCase
from validation.measure.trainer_cases import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_FAMILY = {"llama": TINY, **{family: FAMILIES[family] for family in ("qwen3", "gemma", "gpt2")}}
#: Whole models, and the method of each.
_WHOLE = (
    (SMALL, "full"),
    (SMALL, "lora"),
    (SMALL, "qlora"),
    (HALF, "lora"),
    (HALF, "qlora"),
    ("openai-community/gpt2", "full"),
    ("google/gemma-3-270m", "full"),
)


def load_cases(machine: dict[str, Any]) -> Iterator[StepCase]:
    """Yield the cases. `machine` has the `device` and the `stack` of their requests."""
    for family, config in _BY_FAMILY.items():
        yield from (
            _case(f"two layers of {family}", {"config": config}, name, machine) for name in ("full", "lora", "qlora")
        )
    for model, name in _WHOLE:
        yield _case(model.rpartition("/")[2], model, name, machine)


def _case(title: str, model: str | dict[str, Any], method: str, machine: dict[str, Any]) -> StepCase:
    return StepCase(
        name=f"{title}, {method}",
        body={
            **machine,
            "model": model,
            "method": METHODS[method],
            "training": {"micro_batch_size": 2, "sequence_length": 512},
            "device": {**machine.get("device", {}), "type": "cuda"},
        },
    )
