"""Checks of a model and a method that TRL's trainers share: what they refuse, and what is not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.trainers import adapted_head
from calculator.trainers.trl import qlora, vllm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.facts import TrainerFacts
    from calculator.trainers.subject import Subject


def model_problems(prepared: Subject, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield virtual tokens, dropout that is not modeled, and a reference that the loop does not have."""
    method, model, trainer = prepared.method, prepared.model, facts.label.removeprefix("TRL ")
    if prepared.training.precompute_ref_log_probs and not facts.compares:
        message = f"{trainer} precomputes no reference: use false, or the trainer trl-dpo"
        yield Problem(loc="training.precompute_ref_log_probs", msg=message, input=True)
    if not facts.generates:
        yield from _generation_settings(prepared, trainer)
    yield from vllm.problems(prepared.training)
    if method.virtual_tokens:
        yield from _virtual_tokens(prepared, facts, trainer)
    elif method.plain_steps_only and prepared.training.trainer != "trl-sft":
        message = f"{trainer} with {method.title} is not modeled: use the trainer transformers, or another method"
        yield Problem(loc="method.name", msg=message, input=method.name)
    if facts.disables_dropout and model.model_type in ("falcon", "mpt") and _drops_attention(prepared):
        message = f"{trainer} turns off a part of {model.model_type}'s dropout, which is not modeled: leave it out"
        yield Problem(loc="model.config.attention_dropout", msg=message, input=_drops_attention(prepared))


def _virtual_tokens(prepared: Subject, facts: TrainerFacts, trainer: str) -> Iterator[Problem]:
    """Yield why a trainer, or PEFT in it, fails with virtual tokens.

    Source: peft 0.21, peft_model.py, PeftModelForSequenceClassification._prefix_tuning_forward and
    PeftModelForCausalLM.prepare_inputs_for_generation; TRL 1.16, experimental/orpo/orpo_trainer.py, get_batch_logps,
    and generation/vllm_generation.py, sync_weights.
    """
    method, training = prepared.method, prepared.training
    message = None
    if training.trainer == "trl-reward" and not method.embeds_inputs:
        message = f"PEFT finds no argument past_key_values in {trainer}'s model, and raises an error: use prompt"
    elif training.trainer == "trl-orpo" and method.embeds_inputs:
        message = f"PEFT lengthens the logits by the virtual tokens, and {trainer}'s loss of its labels fails: use lora"
    elif facts.generates and training.use_vllm:
        message = f"{trainer} merges adapters into vLLM's weights, and PEFT merges no virtual tokens: use lora"
    elif facts.generates:
        message = (
            "PEFT 0.21 generates otherwise than it trains with virtual tokens under transformers 5.24 (it leaves a "
            f"prefix out, and adds a prompt before every token), so that {trainer} would train on completions of "
            "another model: use lora"
        )
    if message is not None:
        yield Problem(loc="method.name", msg=f"{message}, or another trainer", input=method.name)


def _generation_settings(prepared: Subject, trainer: str) -> Iterator[Problem]:
    """Yield settings that only generating trainers have."""
    for name in ("beta", "num_generations", "max_completion_length", "use_vllm"):
        given = getattr(prepared.training, name)
        if given is not None and given is not False:
            message = f"the memory of {trainer} does not depend on it: leave it out, or use the trainer trl-grpo"
            yield Problem(loc=f"training.{name}", msg=message, input=given)


def router_problems(prepared: Subject, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield why the routers' loss is refused."""
    trainer, model_type = facts.label.removeprefix("TRL "), prepared.model.model_type
    message = f"the routers' loss that {trainer} adds to {model_type} is not modeled yet: use transformers"
    yield Problem(loc="training.trainer", msg=message, input=prepared.training.trainer)


def _drops_attention(prepared: Subject) -> float:
    return float(prepared.model.config.get("attention_dropout") or 0.0)


def head_problems(prepared: Subject) -> Iterator[Problem]:
    """Yield an adapter on the output head. TRL's own head only reads the weight."""
    name = prepared.model.output.name
    message = f"TRL reads only the weight of {name}, and refuses an adapter on it: leave it out"
    yield from adapted_head.problems(prepared, message, "use transformers, or leave the tokens out")


def four_bit_problems(prepared: Subject) -> Iterator[Problem]:
    """Yield settings for which TRL's casts of a 4-bit model are not modeled."""
    method = prepared.method
    stored = method.base_quantization(prepared.training)
    if stored is None or not stored.is_bitsandbytes:
        return
    is_prepared = method.hidden_dtype(prepared.training) != prepared.training.dtype
    if qlora.prepares(prepared.training, prepared.stack) and not is_prepared and prepared.training.dtype != "float32":
        message = f"TRL {prepared.stack.trl} prepares a 4-bit model itself: use true"
        yield Problem(loc="method.prepare_model_for_kbit_training", msg=message, input=False)
    trains_more = method.trains_biases or getattr(method, "modules_to_save", None)
    if (
        trains_more
        and not qlora.prepares(prepared.training, prepared.stack)
        and not qlora.leaves_alone(prepared.training, prepared.stack)
        and (is_prepared or prepared.training.dtype != "bfloat16")
    ):
        message = (
            "TRL casts the trained parameters of a 4-bit model to bfloat16: with biases or modules_to_save, that is "
            "modeled for training.dtype bfloat16 without preparation only"
        )
        yield Problem(loc="training.dtype", msg=message, input=prepared.training.dtype)
