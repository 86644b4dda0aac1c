"""Checks for LoRA-FA's optimizer: parameters that it does not train, or that PEFT does not pair as intended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods import LoRA, QLoRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

_PAIRS = "LoRA-FA's optimizer reads the parameters named lora in pairs of A and B"


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield methods other than LoRA, and settings of LoRA, that LoRA-FA's optimizer is not modeled with.

    Source: peft 0.21.2, optimizers/lorafa.py, create_lorafa_optimizer and LoraFAOptimizer.step.
    """
    training, method = request.training, request.method
    if not isinstance(method, LoRA | QLoRA):
        message = f"{method.facts.label} has no A and B: use method lora or qlora, or adamw_torch"
        yield Problem(loc="training.optimizer", msg=message, input="lorafa")
        return
    yield from _lora_problems(method.for_model(model))
    if any(m.kind == "embedding" and method.is_target(path, m, model) for path, m in model.paths):
        message = "LoRA-FA does not freeze A of an embedding, which is not modeled: leave embeddings out"
        yield Problem(loc="method.target_modules", msg=message, input=method.target_modules)
    if training.optimizer_in_bwd:
        message = "LoRA-FA's optimizer needs A and B of a pair at once: use false"
        yield Problem(loc="training.optimizer_in_bwd", msg=message, input=True)


def _lora_problems(method: LoRA | QLoRA) -> Iterator[Problem]:
    """Yield settings of LoRA under which parameters named lora are not pairs of a frozen A and a trained B."""
    for name, unpaired in (("use_dora", "a magnitude"), ("lora_bias", "a bias of B")):
        if getattr(method, name):
            message = f"{_PAIRS}, and {unpaired} is neither: use false, or training.optimizer adamw_torch"
            yield Problem(loc=f"method.{name}", msg=message, input=True)
    if method.init_lora_weights == "mica":
        message = "MiCA freezes B and LoRA-FA freezes A, so nothing is trained: use true"
        yield Problem(loc="method.init_lora_weights", msg=message, input="mica")
    for name in ("target_parameters", "trainable_token_indices"):
        value = getattr(method, name)
        if value:
            message = "is not modeled with LoRA-FA: leave it out, or use training.optimizer adamw_torch"
            yield Problem(loc=f"method.{name}", msg=message, input=value)
