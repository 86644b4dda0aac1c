"""Imports: PEFT's adapter_config.json, YAML of four tools and of launchers, commands and scripts, as requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports import (
    axolotl,
    command,
    fsdp_keys,
    launchers,
    llama_factory,
    other_runs,
    peft_adapter,
    python_calls,
    script,
    torchtune,
    trl,
)
from app.interop.imports.exported_launch import launch_in
from app.interop.imports.imported import Imported, NotUnderstood
from app.interop.imports.keys import Keys
from app.interop.imports.modeled_settings import with_modeled_settings
from app.interop.imports.text import mapping
from calculator.common.errors import refusal
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable

#: The function that reads each format.
FORMATS: dict[str, Callable[[Keys, Any], Imported]] = {
    "peft": peft_adapter.imported,
    "axolotl": axolotl.imported,
    "llama-factory": llama_factory.imported,
    "torchtune": torchtune.imported,
    "trl": trl.imported,
    "script": script.imported,
    **launchers.FORMATS,
}

#: A key that only files of that format have. LLaMA-Factory and TRL name the model alike: the first other key decides.
MARKS = {
    "peft_type": "peft",
    **dict.fromkeys(("compute_environment", "distributed_type"), "accelerate"),
    **dict.fromkeys(("zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"), "deepspeed"),
    "base_model": "axolotl",
    **dict.fromkeys(("checkpointer", "metric_logger", "enable_activation_checkpointing"), "torchtune"),
    command.SUBCOMMAND: "trl",
    **dict.fromkeys(
        ("finetuning_type", "stage", "cutoff_len", "template", "dataset_dir", "lora_target"), "llama-factory"
    ),
    **dict.fromkeys(("use_peft", "dataset_name", "dataset_mixture", "lora_r", "load_in_4bit", "max_length"), "trl"),
    **dict.fromkeys(("datasets", "accelerate_config", "reward_funcs", "max_completion_length"), "trl"),
    "model_name_or_path": "llama-factory",
}

#: The key under which TRL's configurations name the model.
_OF_TRL = "model_name_or_path"

#: The marks that a message names.
NAMED_MARKS = ("peft_type", "base_model", "model_name_or_path")

__all__ = ["FORMATS", "Imported", "NotUnderstood", "read"]


def read(
    content: Any,
    format: str | None = None,  # noqa: A002  the API's word
    model: Any = None,
    plan: dict[str, Any] | None = None,
) -> Imported:
    """Return the request of a file, given as text or as an object. Without a format, the keys decide.

    `model` replaces the model that the file names. `plan` is a request whose model, method and training stay where
    the file only distributes a run over GPUs.

    Raises:
        PlanError: if the file cannot be read, names no model or a method that is not supported, or exceeds a limit.
    """
    keys = _keys(content, format)
    name = format or _format(keys)
    other_runs.warn(keys, name)
    is_launcher = name in launchers.FORMATS
    imported = FORMATS[name](keys, plan["model"] if is_launcher and plan and model is None else model)
    if is_launcher:
        imported = launchers.applied(imported, plan) if plan else launchers.without_plan(imported)
    imported = fsdp_keys.with_modeled_classes(imported)
    parse_request(imported.request, catalogued=False)
    return with_modeled_settings(imported)


def _keys(content: Any, format: str | None) -> Keys:  # noqa: A002  the API's word
    """Return the keys of a text: the arguments of a script's calls, a command's options, or a file's own."""
    if isinstance(content, str) and (format == "script" or python_calls.is_code(content)):
        return python_calls.keys_of(content)
    if isinstance(content, str) and command.is_command(content):
        return Keys(command.keys_of(content))
    if not isinstance(content, str):
        return Keys(mapping(content))
    given = mapping(content)
    is_of_trl = _OF_TRL in given and all(MARKS.get(key) != "llama-factory" for key in given if key != _OF_TRL)
    named = command.subcommand_in(content) if is_of_trl else {}
    return Keys({**launch_in(content), **given, **named})


def _format(keys: Keys) -> str:
    if keys.script.calls:
        return "script"
    for key, name in MARKS.items():
        if key in keys.left:
            return name
    named, formats = ", ".join(NAMED_MARKS), ", ".join(FORMATS)
    raise refusal("format", f"none of {named} is in the file: state which of {formats} it is", None)
