"""In what order configurations are proposed: by the priorities, each on a figure of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.methods import LoRA, QLoRA
from calculator.plan.reasons.training import LARGE_MODEL

if TYPE_CHECKING:
    from calculator.plan.reasons.reason import Judged

#: What the order rests on, for the answer's assumptions.
ORDER = (
    "Configurations are ordered by the priorities. Quality is a tier: full fine-tuning and LoRA on every linear layer, "
    "then adapters and LoRA on attention only, then prefixes and prompts on large models, then prompts on smaller ones "
    "(rules all_linear, learns_less, adapter_quality, prefix_quality, prompt_scale). Speed is the step's relative cost "
    "to a twentieth; of equals, a 16-bit base goes before a 4-bit one, whose dequantisation no card does at its rated "
    "speed. Memory is what is required. Of those that are equal in what comes first, what leaves little of the card "
    "goes after what leaves more (rule little_room), before anything else decides."
)


def tier(judged: Judged) -> int:
    """How much a method was seen to learn, 0 first."""
    method = judged.method
    if isinstance(method, LoRA | QLoRA):
        return 0 if method.target_modules == "all-linear" else 1
    if method.name == "prompt":
        return 2 if judged.answer.parameters.base >= LARGE_MODEL else 3
    return {"full": 0, "adapter": 1, "prefix": 2}[method.name]


def place(judged: Judged) -> tuple[float, ...]:
    """What configurations are sorted by."""
    figures: dict[str, tuple[float, ...]] = {
        "quality": (tier(judged),),
        "speed": (round(judged.cost.relative * 20), judged.method.name == "qlora"),
        "memory": (judged.answer.memory.required_bytes,),
    }
    first, *others = (figures[name] for name in judged.needs.order)
    close = judged.evaluator.is_close(judged.choice)
    return (*first, close, *(figure for each in others for figure in each), judged.cost.relative)
