"""The order of configurations, by the priorities. Each priority has its own figure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.planning.reasons.reason import Evaluation

#: The sentence on the order of configurations, for the assumptions in the answer.
ORDER = (
    "Configurations are ordered by the priorities. Quality is a tier: full fine-tuning and LoRA on every linear "
    "layer, then adapters and LoRA on attention only, then prefixes, IA³, LN Tuning and prompts on large models, then"
    " prompts on smaller ones (rules all_linear, learns_less, adapter_quality, prefix_quality, ia3_quality, "
    "ln_tuning_quality, prompt_scale). Speed is the step's relative cost rounded to a twentieth; of equals, a 16-bit "
    "base ranks before a 4-bit one, because no GPU dequantizes at its rated speed, and then the one whose GPUs send "
    "less in a step, in twentieths of the base in 16 bits. Memory is the required memory. Among configurations that "
    "are equal in the first priority, those that leave little memory free rank after those that leave more (rule "
    "little_room)."
)

#: The sentence on the order of configurations if cost is a priority. The price follows.
BY_COST = (
    "Cost is the money for a token: the geometric mean of the interval that published runs near the configuration give."
    " Configurations without such runs come last. The price is"
)


def sort_key(evaluation: Evaluation) -> tuple[float, ...]:
    """Return the key by which configurations are sorted."""
    figures: dict[str, tuple[float, ...]] = {
        "quality": (evaluation.method.quality_tier(evaluation.answer.parameters.base),),
        "speed": (
            round(evaluation.cost.relative * 20),
            evaluation.method.facts.quantizes_base,
            _sent(evaluation),
        ),
        "memory": (evaluation.answer.memory.required_bytes,),
        "cost": (evaluation.token_cost.middle if evaluation.token_cost else inf,),
    }
    first, *others = (figures[name] for name in evaluation.needs.order)
    close = evaluation.evaluator.is_close(evaluation.candidate)
    return (*first, close, *(figure for other in others for figure in other), evaluation.cost.relative)


def _sent(evaluation: Evaluation) -> int:
    """Return the amount of data that each GPU sends in a step, in twentieths of the base's parameters in 16 bits."""
    answer = evaluation.answer
    return round(answer.sent_bytes / (2 * answer.parameters.base) * 20)
