"""The trainer of a recipe, on the meta device or a real one."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from validation.reference.build import META, config_of
from validation.reference.trainers import kernels

if TYPE_CHECKING:
    import torch

    from validation.reference.trainers.recipe import Recipe, TrainerName
    from validation.reference.trainers.run import Run

#: The module that builds each trainer; TRL is imported after its kernels are made to run on the meta device.
BUILDERS: dict[TrainerName, str] = {
    "transformers": "hugging_face",
    "trl-sft": "supervised",
    "trl-dpo": "preference",
    "trl-kto": "preference",
    "trl-reward": "preference",
    "trl-orpo": "preference",
    "trl-grpo": "reinforcement",
    "trl-rloo": "reinforcement",
}


def check_release(wanted: str) -> None:
    """Refuse a request that names another release of TRL than the one that Python imports.

    Raises:
        PlanError: with the commands that put the release first.
    """
    imported = version("trl")
    if not f"{imported}.".startswith(f"{wanted}."):
        install = f"pip install --no-deps --target trl-{wanted} 'trl=={wanted}.*'"
        reason = f"TRL {imported} is imported; run {install}, and trace with PYTHONPATH=trl-{wanted}"
        raise refusal("stack.trl", reason, wanted)


def build_run(recipe: Recipe, folder: str, device: torch.device = META) -> Run:
    """Build a recipe's model and trainer. The trainer may write to `folder`.

    Raises:
        PlanError: if transformers, PEFT or TRL refuses the request.
    """
    if recipe.trainer != "transformers":
        check_release(recipe.trl)
    if recipe.use_liger_kernel or recipe.cut_cross_entropy or recipe.trainer != "transformers":
        kernels.install(device)
    if recipe.cut_cross_entropy:
        install = import_module("validation.reference.trainers.cut_cross_entropy").install
        install(config_of(recipe.request)["model_type"])
    builder = import_module(f"validation.reference.trainers.{BUILDERS[recipe.trainer]}")
    return builder.build(recipe, folder, device)
