"""The keys of TrainingArguments and of TRL's configurations, as the training of a request.

Source: transformers 5.24, training_args.py; TRL 1.16, trainer/base_config.py and sft_config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.interop.imports import other_runs
from app.interop.imports.generation import generation
from app.interop.imports.trainer_keys import optimizer, unpadded
from calculator.inputs.settings import declared, mismatch
from calculator.inputs.training import Training
from calculator.trainers import TRAINERS

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.common.names import TrainerName


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentDefaults:
    """The defaults of a configuration class."""

    bf16: bool
    checkpointing: bool
    #: The key of the sequence length, and its default; none if the dataset decides.
    length: int | None = None
    batch: int = 8
    accumulation: int = 1
    optimizer: str = "adamw_torch_fused"


TRAINING_ARGUMENTS = ArgumentDefaults(bf16=False, checkpointing=False)
TRL_CONFIG = ArgumentDefaults(bf16=True, checkpointing=True, length=1024)
#: Source: unsloth at 015bdef, models/rl.py (replacements), models/loader.py (max_seq_length).
UNSLOTH_CONFIG = ArgumentDefaults(
    bf16=True, checkpointing=True, length=2048, batch=4, accumulation=2, optimizer="adamw_8bit"
)

#: Source: TRL 1.16, trainer/sft_config.py, packing_strategy.
STRATEGIES = ("bfd", "bfd_split", "wrapped")

#: The trainer that packs.
_PACKS = "trl-sft"


def trainer_or_warn(keys: Keys, name: str) -> TrainerName:
    """Return a trainer that is modeled: the named one, or SFTTrainer with a warning."""
    for trainer in TRAINERS:
        if trainer == name and trainer is not None:
            return trainer
    effect = "Preference and reinforcement learning add a reference model, more sequences or another loss."
    keys.warn(f"the trainer {name}", effect, "one of TRL's SFTTrainer")
    return "trl-sft"


#: The settings that have functions of their own here.
OWN = ("trainer", "dtype", "attention", "activation_offloading")

#: Names of attention implementations, kernels of the Hub included.
ATTENTION = {
    "eager": "eager",
    "sdpa": "sdpa",
    "flash_attention_2": "flash_attention_2",
    "kernels-community/flash-attn2": "flash_attention_2",
    "kernels-community/flash-attn": "flash_attention_2",
}


def arguments(keys: Keys, trainer: TrainerName, defaults: ArgumentDefaults) -> dict[str, Any]:
    """Return the training settings of a configuration, and of the model's attention."""
    attention = keys.choice("attn_implementation", ATTENTION, "sdpa", "sdpa")
    batch = keys.integer("per_device_train_batch_size", defaults.batch)
    checkpointed = checkpointing(keys, default=defaults.checkpointing)
    training = {
        "attention": attention,
        "autocast": _autocast(keys, defaults),
        "micro_batch_size": batch,
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps", defaults.accumulation),
        **optimizer(keys, "optim", defaults.optimizer),
        "max_grad_norm": keys.number("max_grad_norm", 1.0) or None,
        **checkpointed,
        **_offloading(keys, trainer, checkpointed),
        **(generation(keys, trainer) if TRAINERS[trainer].facts.generates else _length(keys, trainer, defaults)),
        **_packing(keys, trainer, attention, batch),
        **_loss(keys, trainer),
    }
    if TRAINERS[trainer].facts.disables_dropout and not keys.flag("disable_dropout", default=True):
        keys.miss("disable_dropout", False, "is modeled as true: no dropout of the model drops anything")
    if not TRAINERS[trainer].facts.generates:
        other_runs.warn_of(keys, other_runs.VLLM)
        keys.forget(["beta", "max_prompt_length", "max_completion_length"])  # a sequence has max_length tokens at most
    return unpadded(keys, "padding", {**training, **_declared(keys, training)})


def _offloading(keys: Keys, trainer: TrainerName, checkpointed: dict[str, Any]) -> dict[str, Any]:
    """Return whether saved tensors are offloaded. Where that is not modeled, it is a warning."""
    if trainer == "unsloth":  # which reads a key of the same name
        return {}
    reentrant = checkpointed.get("gradient_checkpointing_kwargs", {}).get("use_reentrant", False)
    is_modeled = checkpointed["gradient_checkpointing"] and not reentrant
    if TRAINERS[trainer].facts.offloads_saved_tensors and is_modeled:
        return {"activation_offloading": True} if keys.flag("activation_offloading") else {}
    other_runs.warn_of(keys, other_runs.OFFLOADING)
    return {}


def _autocast(keys: Keys, defaults: ArgumentDefaults) -> str | None:
    fp16 = keys.flag("fp16")
    if keys.flag("bf16", default=defaults.bf16 and not fp16):
        return "bfloat16"
    return "float16" if fp16 else None


def checkpointing(keys: Keys, *, default: bool) -> dict[str, Any]:
    """Return what TrainingArguments' keys checkpoint."""
    is_on = keys.flag("gradient_checkpointing", default=default)
    options = keys.take("gradient_checkpointing_kwargs", {})
    is_read = isinstance(options, dict) and set(options) <= {"use_reentrant"}
    if not is_read:
        keys.miss("gradient_checkpointing_kwargs", options, "only use_reentrant is read")
    reentrant = options.get("use_reentrant") if isinstance(options, dict) else None
    given = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}} if isinstance(reentrant, bool) else {}
    return {"gradient_checkpointing": is_on, **(given if is_on else {})}


def _length(keys: Keys, trainer: str, defaults: ArgumentDefaults) -> dict[str, Any]:
    """Return the sequence length. The dataset decides where the configuration has none."""
    keys.rename("max_seq_length", "max_length")
    cuts = keys.left.get("max_length") is not None
    if not cuts and "max_length" in keys.left and defaults.length is not None:
        keys.take("max_length")
        keys.miss("max_length", None, f"rows are not cut: {defaults.length:,} tokens are assumed")
    elif not cuts and defaults.length is None:
        keys.take("max_length")
        if keys.script.cut_length is not None:
            return {"sequence_length": keys.script.cut_length}
        keys.miss("max_length", None, f"{trainer} takes the lengths from the dataset: set sequence_length yourself")
        return {}
    return {"sequence_length": keys.integer("max_length", defaults.length or 1024)}


def _packing(keys: Keys, trainer: TrainerName, attention: str, batch: int) -> dict[str, Any]:
    """Return packing and padding. Without packing, a batch of several sequences is padded to its longest."""
    is_padded = keys.left.get("padding_free") is False
    packing, free = keys.flag("packing"), keys.flag("padding_free")
    strategy = keys.choice("packing_strategy", {name: name for name in STRATEGIES}, "bfd", "bfd")
    if trainer == "unsloth":  # its rows are one row, packed or not
        if is_padded and not packing:
            effect = "Unsloth 2026.10 compiles the layers of padded rows with PyTorch 2.11 and later."
            keys.warn("padding_free: false with Unsloth", effect, "one with rows without padding")
        return {"padding": False}
    if trainer == _PACKS and (packing or free):
        given: dict[str, Any] = {"packing": True} if packing else {}
        if packing and strategy != "bfd":
            given["packing_strategy"] = strategy
        return {**given, **({"padding_free": True} if free else {}), "padding": False}
    if packing:
        effect = "Packing puts several examples into one row, and attention gets their boundaries."
        keys.warn(f"packing with {attention}", effect, "one with full sequences of max_length tokens")
    if free:
        keys.miss("padding_free", True, "is not modeled with this trainer: rows are padded")
    return {"padding": batch * TRAINERS[trainer].facts.sequences > 1 and not packing}


def _loss(keys: Keys, trainer: str) -> dict[str, Any]:
    for key in ("completion_only_loss", "assistant_only_loss"):
        if keys.take(key):
            keys.miss(key, True, "the number of labeled tokens is not in the file: all are counted")
    if trainer != _PACKS:
        return {}
    loss = keys.choice(
        "loss_type", {name: name for name in ("nll", "chunked_nll", "dft")}, None, "the trainer's default"
    )
    return {"loss_type": loss} if loss else {}


def _declared(keys: Keys, read: dict[str, Any]) -> dict[str, Any]:
    """Return the remaining keys that have the name and the type of a training setting, such as use_liger_kernel."""
    values: dict[str, Any] = {}
    for field in declared(Training):
        if field.name in read or field.name not in keys.left or field.name in OWN:
            continue
        value = keys.left[field.name]
        if value is not None and mismatch(field.type, value) is None:
            values[field.name] = keys.take(field.name)
    return values
