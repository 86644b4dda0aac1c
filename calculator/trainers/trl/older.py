"""The older releases of TRL whose trainers of preferences are modeled, and what is not modeled of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.releases import dotted, listed, release
from calculator.stack.trainers import OLDER_TRAINERS
from calculator.trainers.trl_sft.releases import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import LayerOutputs
    from calculator.inputs.stack import StackVersions
    from calculator.trainers.facts import TrainerFacts
    from calculator.trainers.subject import Subject

#: The first and the last transformers with which the older releases are known. Some models of earlier ones return
#: logits in float32 (transformers 4.47.1, models/mistral/modeling_mistral.py, MistralForCausalLM.forward).
FIRST, LAST = (4, 48), (4, 57)

#: The methods that are modeled with the older releases.
METHODS = ("full", "lora", "qlora")


#: The losses of later releases, and the one that computes a cross-entropy too.
OTHER_LOSSES = ("aot_unpaired", "sft", "sigmoid_norm")

#: The arguments that are true by default from a release on.
#: Source: TRL 0.19.1 and 0.22.2, trainer/dpo_config.py and the configs of the other trainers.
TRUE_BY_DEFAULT = {"bf16": (0, 19), "gradient_checkpointing": (0, 22)}

#: What each trainer of the older releases computes and keeps.
_SENTENCES: dict[str, str] = {
    "trl-dpo": "computes log-probabilities from the logits of every token",
    "trl-kto": "computes log-probabilities from the logits of every token, and copies the logits of the desirable and"
    " of the undesirable rows, which stay until the loss is computed",
    "trl-orpo": "computes log-probabilities from the logits of every token",
}

#: The layers' tensors that the model returns, as a sentence.
_RETURNED: dict[LayerOutputs, str] = {
    "hidden states": "The model returns the hidden states of every layer (output_hidden_states), which autocast's end"
    " copies to float32.",
    "cache": "The model's use_cache decides about a cache, which stays until the log-probabilities are computed.",
}


def sentences(prepared: Subject, returned: LayerOutputs | None) -> Iterator[str]:
    """Yield sentences on the tensors that an older release computes and keeps.

    `returned` are the tensors of layers that the model returns.
    """
    computed = _SENTENCES.get(prepared.training.trainer or "")
    if computed is not None:
        yield f"TRL {prepared.stack.trl} {computed}."
    if returned is not None:
        yield _RETURNED[returned]


def defaults(stack: StackVersions) -> tuple[str, ...]:
    """Return the arguments that are true by default in an older release."""
    return tuple(name for name, first in TRUE_BY_DEFAULT.items() if release(stack.trl)[:2] >= first)


def named(trainer: str | None) -> str:
    """Return a phrase with the older releases of a trainer, which is empty if there are none."""
    known = OLDER_TRAINERS.get(trainer or "")
    return f" and, with transformers 4, {listed((known,))}" if known else ""


def problems(prepared: Subject, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield settings of an older release that are not modeled."""
    training, stack = prepared.training, prepared.stack
    trainer, version = f"{facts.label.removeprefix('TRL ')} of TRL {stack.trl}", release(stack.transformers)[:2]
    first = max(needed(stack), FIRST)
    if not first <= version <= LAST:
        message = f"{trainer} is known with transformers {dotted(first)} to {dotted(LAST)}"
        yield Problem(loc="stack.trl", msg=f"{message}: name one in stack.transformers", input=stack.trl)
    if prepared.method.name not in METHODS:
        message = f"{trainer} is modeled with {', '.join(METHODS)}: use one of them, or stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="method.name", msg=message, input=prepared.method.name)
    if prepared.model.model_type == "gpt_bigcode":
        message = f"{trainer} is not modeled with gpt_bigcode: use trl-sft, or stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="stack.trl", msg=message, input=stack.trl)
    if prepared.device.count > 1:
        message = f"{trainer} is modeled on one GPU only: use 1, or stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="device.count", msg=message, input=prepared.device.count)
    if training.loss_type in OTHER_LOSSES:
        message = f"{training.loss_type} is no loss of {trainer}, or not modeled: use sigmoid, or leave it out"
        yield Problem(loc="training.loss_type", msg=message, input=training.loss_type)
    given = training.completion_tokens
    if given is not None and given % (facts.sequences * training.micro_batch_size):
        message = f"{trainer} is modeled with as many tokens in every completion: use a multiple of their number"
        yield Problem(loc="training.completion_tokens", msg=message, input=given)
    if training.has_images:
        message = f"images are not modeled with {trainer}: use stack.trl {DEFAULT_STACK.trl}"
        yield Problem(loc="training.images", msg=message, input=True)
