"""The arguments that every trainer takes, as `TrainingArguments` names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.reference.trainers.recipe import Recipe


def _listed(named: Any) -> Any:
    return list(named) if isinstance(named, tuple) else named


def training_arguments(recipe: Recipe, folder: str) -> dict[str, Any]:
    """Return the arguments of a recipe; a run writes nothing to its folder."""
    training = recipe.request.training
    return {
        "output_dir": folder,
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "bf16": training.autocast == "bfloat16",
        "fp16": training.autocast == "float16",
        "optim": training.optimizer,
        "optim_args": training.optim_args,
        "optim_target_modules": _listed(training.optim_target_modules),
        "max_grad_norm": training.max_grad_norm or 0.0,
        "gradient_checkpointing": training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": recipe.gradient_checkpointing_kwargs,
        "use_liger_kernel": recipe.use_liger_kernel,
        "max_steps": recipe.steps,
        "train_sampling_strategy": "sequential",  # so that the rows of a batch label what a request says
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **recipe.distribution,
    }
