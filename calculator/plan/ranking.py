"""In what order configurations are proposed: by the priorities, each on a figure of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def place(judged: Judged) -> tuple[float, ...]:
    """What configurations are sorted by."""
    figures: dict[str, tuple[float, ...]] = {
        "quality": (judged.method.quality_tier(judged.answer.parameters.base),),
        "speed": (round(judged.cost.relative * 20), judged.method.facts.quantizes_base),
        "memory": (judged.answer.memory.required_bytes,),
    }
    first, *others = (figures[name] for name in judged.needs.order)
    close = judged.evaluator.is_close(judged.candidate)
    return (*first, close, *(figure for each in others for figure in each), judged.cost.relative)
