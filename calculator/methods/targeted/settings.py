"""The settings that methods with targets share, named and defaulted as in PEFT's configurations."""

from __future__ import annotations

from typing import Any

from calculator.inputs.settings import setting


def target_modules() -> Any:
    """Declare `target_modules`."""
    return setting(
        None,
        label="Target modules",
        help="Names of the modules to adapt, all-linear, or null for PEFT's default for the family.",
        example="all-linear",
    )


def modules_to_save() -> Any:
    """Declare `modules_to_save`."""
    return setting(
        None,
        label="Modules to save",
        help="Modules that are copied and trained in full, by name.",
        example=("lm_head",),
    )


def unfrozen_dtype() -> Any:
    """Declare `unfrozen_dtype`, which full fine-tuning has too."""
    return setting(
        "model",
        label="Data type of unfrozen parameters",
        help="The data type of what is trained in full, such as copies of modules_to_save: the model's, or float32, to "
        "which LLaMA-Factory casts it. float32 needs autocast.",
    )


def exclude_modules() -> Any:
    """Declare `exclude_modules`."""
    return setting(
        None,
        label="Modules to exclude",
        help="Names of modules that are not adapted, although target_modules matches them.",
        example=("down_proj",),
    )


def dropout() -> Any:
    """Declare a method's dropout."""
    return setting(0.0, label="Dropout", help="Dropout on the input of the added path.", minimum=0, maximum=0.99)


def bias() -> Any:
    """Declare `bias`."""
    return setting("none", label="Train biases", help="Which biases of the base model are trained too.")


def rank_dropout() -> Any:
    """Declare the dropout of an update's rows."""
    return setting(0.0, label="Rank dropout", help="Dropout on rows of the update.", minimum=0, maximum=0.99)


def save_projection() -> Any:
    """Declare `save_projection`."""
    return setting(
        True,
        label="Save the projections",
        help="Save the shared matrices with the adapter, instead of drawing them again; a step's memory is the same.",
    )
