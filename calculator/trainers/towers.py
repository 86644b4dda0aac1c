"""Models that also read images: how trainers handle them, and what is not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.trainers.subject import Subject

#: The trainers that are modeled with such models: on images and text, and on text alone.
MODELED = ("transformers", "trl-sft", "trl-dpo", "trl-kto")
ON_TEXT = ("trl-orpo",)
GENERATING = ("trl-grpo", "trl-rloo")

#: The models whose steps with these trainers were traced, on text.
GENERATE = frozenset(
    {
        *("gemma3", "idefics3", "llava", "mistral3", "smolvlm"),
        *("qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"),
    }
)

#: Models whose class sets accepts_loss_kwargs to False. The Trainer counts no labels for them, and the loss of each
#: micro-batch is its mean. Source: transformers/trainer.py, _get_num_items_in_batch, and each family's modeling file.
MEANS = frozenset({"gemma4", "gemma4_unified", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"})

#: Models whose own forward pass reads use_cache from their config and passes it to their text model. The Trainer does
#: not change the text model's config. Source: transformers/utils/generic.py, merge_with_config_defaults;
#: modeling_idefics3.py.
_PASS_USE_CACHE = frozenset({"gemma4", "gemma4_unified", "idefics3", "llava_next", "mistral3", "smolvlm"})

#: Settings for which kernels or rows are not modeled with such models.
_SETTINGS = ("use_liger_kernel", "cut_cross_entropy", "packing", "padding_free")


def reads_images(model: Model) -> bool:
    """Return whether the model has a vision tower.

    Whisper's encoder is for audio, which each of its batches has.
    """
    return bool(model.towers) and not model.reads_audio


def makes_cache(model: Model) -> bool:
    """Return whether a model that also reads images creates a cache although use_cache is unset in its config.

    The Trainer unsets it.
    """
    return reads_images(model) and model.model_type not in _PASS_USE_CACHE


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield settings of a trainer that are not modeled for a model that also reads images."""
    training, name = prepared.training, prepared.model.model_type
    generating = GENERATING if training.has_images or name in GENERATE else ()
    accepted = (*MODELED, *(() if training.has_images else ON_TEXT), *generating)
    if training.trainer not in accepted:
        what = "images are" if training.has_images else f"{name}, which also reads images, is"
        message = f"{what} modeled with {', '.join(accepted[:-1])} and {accepted[-1]}: use one, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    for setting in _SETTINGS:
        if given := getattr(training, setting):
            message = f"is not modeled with a trainer for {name}, which also reads images: use false"
            yield Problem(loc=f"training.{setting}", msg=message, input=given)
    if prepared.stack != DEFAULT_STACK:
        message = f"trainers of {name}, which also reads images, are modeled with the default releases: leave it out"
        yield Problem(loc="stack", msg=message, input=None)
