"""Training scripts of models that read images: `transformers.Trainer`, and TRL's SFTTrainer, DPOTrainer and KTOTrainer.

Source: trl/trainer/sft_trainer.py, DataCollatorForVisionLanguageModeling; dpo_trainer.py,
DataCollatorForVisionPreference; kto_trainer.py, DataCollatorForVisionUnpairedPreference;
transformers/processing_utils.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem
from calculator.trainers.trl.comparing import NEEDS_IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.exports.script_kinds import TrainerScript
    from calculator.architecture.model import Model
    from calculator.common.names import TrainerName
    from calculator.estimation.request import Request

#: The trainers whose scripts train on images.
TRAINERS: tuple[TrainerName, ...] = ("transformers", "trl-sft", "trl-dpo", "trl-kto")


def check(request: Request, model: Model) -> None:
    """Refuse what scripts with images do not have yet.

    Raises:
        PlanError: with every such setting.
    """
    problems = tuple(_problems(request, model))
    if problems:
        raise PlanError(*problems)


def with_images(trainer: TrainerScript) -> TrainerScript:
    """Return a trainer's script on rows of images and text, whose model has a processor in place of a tokenizer."""
    template = "image_preference" if trainer.template == "preference" else "images"
    return replace(trainer, template=template, reader="AutoProcessor")


def context(request: Request) -> dict[str, Any]:
    """Return the template variables: the images, and the limits of pixels that the processor is loaded with."""
    images = request.training.images
    if images is None or not request.training.has_images:
        return {"images": None}
    given = {"min_pixels": images.min_pixels, "max_pixels": images.max_pixels}
    return {"images": images, "limits": [f"{name}={value}" for name, value in given.items() if value is not None]}


def _problems(request: Request, model: Model) -> Iterator[Problem]:
    training = request.training
    if training.trainer not in TRAINERS:
        *others, last = TRAINERS
        message = f"scripts with images are written for {', '.join(others)} and {last}: use one, or leave images out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    if training.trainer in ("trl-dpo", "trl-kto") and model.model_type in NEEDS_IMAGES:
        message = f"its collator processes answers without images, which the processor of {model.model_type} refuses"
        yield Problem(
            loc="training.trainer", msg=f"{message}: use trl-sft, or leave images out", input=training.trainer
        )
    if request.model.id is None:
        message = "scripts with images load the processor of a checkpoint: give the id of a model on the Hub"
        yield Problem(loc="model.config", msg=message, input=None)
