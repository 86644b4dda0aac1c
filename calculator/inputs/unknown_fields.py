"""Messages for unknown fields, with the field that was probably meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names of `TrainingArguments`, `LoraConfig` and `from_pretrained`, and the fields of a request that have other names.
_FIELDS = {
    "attn_implementation": "training.attention",
    "batch_size": "training.micro_batch_size",
    "bf16": 'training.autocast "bfloat16"',
    "fp16": 'training.autocast "float16"',
    "load_in_4bit": 'method {"name": "qlora"}',
    "lora_r": "method.r",
    "max_length": "training.sequence_length",
    "max_seq_length": "training.sequence_length",
    "gpu": "device.gpu",
    "num_gpus": "device.count",
    "optim": "training.optimizer",
    "per_device_train_batch_size": "training.micro_batch_size",
    "rank": "method.r",
    "sharding": "device.sharding",
    "torch_dtype": "training.dtype",
    "trainer": "training.trainer",
}


def meant_by(key: str) -> str | None:
    """Return the field of a request that has another name in TrainingArguments, LoraConfig or from_pretrained."""
    return _FIELDS.get(key)


def unknown_field(key: str, accepted: Iterable[str]) -> str:
    """Return the message for an unknown field."""
    names = [*accepted]
    close = get_close_matches(key, names, n=1, cutoff=0.7)
    meant = meant_by(key) or (close[0] if close else None)
    hint = f"did you mean {meant}? Known" if meant else "known"
    return f"unknown field; {hint} fields are {', '.join(names) or 'none'}"
