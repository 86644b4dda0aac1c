"""The runs of `generate` to measure: small models with each kind of adapter, and with a cache of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.measure.step_cases import METHODS, SMALL, TINY
from validation.measure.trainer_cases import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODELS: dict[str, str | dict[str, Any]] = {
    "llama": {"config": TINY},
    **{family: {"config": FAMILIES[family]} for family in ("qwen3", "gemma", "gpt2")},
    "SmolLM2-135M": SMALL,
}

#: The model, the method, and the settings of serving that differ from the defaults.
_CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *((name, "full", {}) for name in _MODELS),
    *((name, "lora", {}) for name in ("llama", "qwen3", "SmolLM2-135M")),
    ("llama", "qlora", {}),
    ("qwen3", "full", {"padding": True}),
    ("gpt2", "full", {"dtype": "float32"}),
    ("SmolLM2-135M", "full", {"batch_size": 8, "context_length": 1024}),
)


@dataclass(frozen=True, kw_only=True)
class ServedCase:
    """One run of `generate`, as an inference request."""

    name: str
    body: dict[str, Any]


def served_cases(machine: dict[str, Any]) -> Iterator[ServedCase]:
    """Yield the cases. `machine` has the `device` and the `stack` of their requests."""
    for model, method, serving in _CASES:
        settings = "".join(f", {key}={value}" for key, value in serving.items())
        yield ServedCase(
            name=f"{model}, {method}{settings}",
            body={
                **machine,
                "model": _MODELS[model],
                "method": METHODS[method],
                "serving": {"batch_size": 2, "context_length": 256, "max_new_tokens": 16, **serving},
                "device": {**machine.get("device", {}), "type": "cuda"},
            },
        )
