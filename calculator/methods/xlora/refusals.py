"""Settings of X-LoRA that fail in PEFT's code, and steps that fail with X-LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.low_rank.targets import FUSED_EXPERTS
from calculator.methods.targeted.matching import is_named, proposed
from calculator.methods.targeted.refusals import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.inputs.training import Training
    from calculator.methods.xlora.method import XLoRA

#: The prefix of the base model for which PEFT finds the parameters of adapters in their files. Source:
#: peft/tuners/xlora/model.py, _load_adapter_into_lora_model.
_BASE = "model."


def training_problems(training: Training) -> Iterator[Problem]:
    """Yield the refusals of checkpointing and of SFTTrainer.

    A layer is recomputed after PEFT has removed the hooks that pass the scalings. It raises an error then, or passes no
    gradient to the classifier if the checkpoint is re-entrant.
    """
    if training.gradient_checkpointing:
        message = (
            "X-LoRA passes its scalings to the layers in hooks, and PEFT has removed these by the time that a layer is"
            " recomputed: use false"
        )
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)
    if training.trainer == "trl-sft":
        message = (
            "X-LoRA reads hidden states from the model's output, and SFTTrainer's model returns none: use transformers,"
            " or leave the trainer out"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)


def setting_problems(method: XLoRA, model: Model, targets: Iterable[str]) -> Iterator[Problem]:
    """Yield settings that fail in PEFT's code, and models whose adapters it can't load."""
    yield from _experts(method, model)
    if method.top_k_lora is not None and method.top_k_lora > len(method.adapters):
        message = f"is more than the number of adapters: use {len(method.adapters):,} or fewer"
        yield Problem(loc="method.top_k_lora", msg=message, input=method.top_k_lora)
    width = int(model.embedding.out_features)
    if method.hidden_size not in (None, width):
        message = f"must be the hidden size of the model: use {width:,}, or leave it out"
        yield Problem(loc="method.hidden_size", msg=message, input=method.hidden_size)
    outside = next((path for path in targets if not path.startswith(_BASE)), None)
    if outside is not None:
        message = (
            f"PEFT loads X-LoRA's adapters only for modules whose names begin with {_BASE!r}, and raises an error for"
            f" {outside}: name modules that do, or use another model or method"
        )
        yield Problem(loc="method.target_modules", msg=message, input=outside)


def _experts(method: XLoRA, model: Model) -> Iterator[Problem]:
    """Yield fused experts, whose parameters LoRA adapts in a layer that X-LoRA does not replace."""
    fused, targets = FUSED_EXPERTS.get(model.model_type, ()), method.target_modules
    names_experts = targets == "all-linear" or any(is_named(target, fused) for target in targets or ())
    if fused and names_experts:
        message = (
            f"LoRA adapts the fused experts of {model.model_type} as parameters, for which X-LoRA has no layer:"
            f" {proposed(method, model)}"
        )
        yield Problem(loc="method.target_modules", msg=message, input=listed(targets))
