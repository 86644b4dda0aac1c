"""The reference model of TRL's preference trainers.

Source: trl/trainer/dpo_trainer.py and kto_trainer.py of TRL 1.16, __init__.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.loop import Compared
    from calculator.trainers.subject import Subject

#: The methods whose adapters PEFT applies. Bottleneck adapters are modules of the model instead.
BY_PEFT = ("lora", "qlora", "ia3")

#: The first release that compares a wrapped model with a copy of its adapters.
COPIES = (1, 0)


def compared(prepared: Subject) -> Compared | None:
    """Return the reference that is in memory, if any.

    TRL has no option for adapters in the model's dtype. A script applies them to the model itself. The trainer then
    compares with a copy of the adapters in float32, which stays in memory even with precomputed log-probabilities.
    """
    method, training = prepared.method.name, prepared.training
    if prepared.method.virtual_tokens:
        return "without adapters"
    if method not in BY_PEFT:
        return None if training.precompute_ref_log_probs else "model"
    copies = prepared.adapter_dtype == "model" and method != "qlora" and release(prepared.stack.trl) >= COPIES
    return "adapter copies" if copies else "without adapters"


def copies_problems(prepared: Subject) -> Iterator[Problem]:
    """Yield why PEFT refuses a reference that is a copy of the adapters."""
    sharding = prepared.device.sharding
    if sharding not in ("none", "ddp"):
        message = f"a reference that is a copy of the adapters is not modeled under {sharding}: use float32"
        yield Problem(loc="training.adapter_dtype", msg=message, input="model")
    if prepared.method.trains_biases:
        message = (
            "the reference is a copy of the adapters, and PEFT trains biases with a single adapter only: use none, or "
            "training.adapter_dtype float32"
        )
        yield Problem(loc="method.bias", msg=message, input=getattr(prepared.method, "bias", None))


def sentence(prepared: Subject, *, is_frozen: bool) -> str:
    """Return a sentence on the reference model, and on the memory that it keeps.

    `is_frozen`: whether a second model is a frozen copy.
    """
    if prepared.training.precompute_ref_log_probs:
        return "The reference's log-probabilities are precomputed: no reference runs in the step."
    match compared(prepared):
        case "model" if is_frozen:
            return "The reference is a frozen copy of the model (create_reference_model)."
        case "model":
            return (
                "The reference is a second model of the same dtype (ref_model). TRL does not freeze it, so that with "
                "autocast its float32 weights have copies while it runs, although it is never trained."
            )
        case "adapter copies":
            return (
                "adapter_dtype model is for a script that applies the adapters itself: the reference is the model with "
                "a float32 copy of them, which DPOTrainer adds."
            )
        case _:
            return "The reference is the model with its adapters off: it needs no second model."
