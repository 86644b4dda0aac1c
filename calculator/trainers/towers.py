"""Models that also read images, trained on text alone: what trainers do with them, and what of it is not modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.trainers.subject import Subject

#: The trainers that are modelled with such models.
MODELLED = ("transformers", "trl-sft")

#: Models whose class sets accepts_loss_kwargs to False: Trainer counts no labels for them, and each micro-batch's
#: loss is its mean. Source: transformers/trainer.py, _get_num_items_in_batch, and each family's modeling file.
MEANS = frozenset({"qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl"})

#: Models whose cache, which a trainer leaves on without gradient checkpointing, is not modelled in a step of one.
_OPEN = ("gemma4",)

#: Models whose stored 4-bit weights a trainer's step counts differently from the reference step.
_OPEN_IN_4_BITS = ("qwen2_5_vl", "qwen3_vl")

#: Settings whose kernels and rows are not modelled with such models.
_SETTINGS = ("use_liger_kernel", "cut_cross_entropy", "packing", "padding_free")


def is_idle(model: Model) -> bool:
    """Return whether the model has a tower that the batch does not use: Whisper's batches use theirs."""
    return bool(model.idle and model.towers)


def problems(prepared: Subject, sharding: str) -> Iterator[Problem]:
    """Yield what of a trainer is not modelled for a model that also reads images."""
    training, name = prepared.training, prepared.model.model_type
    if name in _OPEN:
        message = f"{name} also reads images, which is not modelled with a trainer yet: leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
        return
    if training.trainer not in MODELLED:
        message = f"{name} also reads images, which is modelled with {' and '.join(MODELLED)}: use one, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    elif training.trainer != "transformers" and name in MEANS:
        message = (
            f"the labels of {name} are not counted, which is modelled with transformers: use that, or leave it out"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    if name in _OPEN_IN_4_BITS and prepared.method.base_quantization(training) is not None:
        message = f"a 4-bit {name} is not modelled with a trainer yet: leave it out, or use lora"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    for setting in _SETTINGS:
        if given := getattr(training, setting):
            message = f"is not modelled with a trainer for {name}, which also reads images: use false"
            yield Problem(loc=f"training.{setting}", msg=message, input=given)
    if sharding != "none":
        message = f"trainers are modelled on one GPU for {name}, which also reads images: use none, and device.count 1"
        yield Problem(loc="device.sharding", msg=message, input=sharding)
    if prepared.stack != DEFAULT_STACK:
        message = f"trainers of {name}, which also reads images, are modelled with the default releases: leave it out"
        yield Problem(loc="stack", msg=message, input=None)
