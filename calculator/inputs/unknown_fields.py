"""Messages for unknown fields, with the field that was probably meant."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class SuggestedField(NamedTuple):
    """The field of a request that another library's name means, and the value to set. Empty if any value is meant."""

    field: str
    value: str = ""

    def __str__(self) -> str:
        """Return the field and the value as JSON. A method is an object with a name."""
        value = {"name": self.value} if self.field == "method" else self.value
        return f"{self.field} {json.dumps(value)}" if self.value else self.field


#: Names of `TrainingArguments`, `LoraConfig` and `from_pretrained`, and the fields of a request that have other names.
_FIELDS = {
    "alpha": SuggestedField("method.lora_alpha"),
    "attn_implementation": SuggestedField("training.attention"),
    "batch_size": SuggestedField("training.micro_batch_size"),
    "bf16": SuggestedField("training.autocast", "bfloat16"),
    "cutoff_len": SuggestedField("training.sequence_length"),
    "dropout": SuggestedField("method.lora_dropout"),
    "fp16": SuggestedField("training.autocast", "float16"),
    "load_in_4bit": SuggestedField("method", "qlora"),
    "lora_r": SuggestedField("method.r"),
    "max_length": SuggestedField("training.sequence_length"),
    "max_seq_length": SuggestedField("training.sequence_length"),
    "gpu": SuggestedField("device.gpu"),
    "gpus": SuggestedField("device.count"),
    "nproc_per_node": SuggestedField("device.count"),
    "num_gpus": SuggestedField("device.count"),
    "num_processes": SuggestedField("device.count"),
    "optim": SuggestedField("training.optimizer"),
    "per_device_train_batch_size": SuggestedField("training.micro_batch_size"),
    "rank": SuggestedField("method.r"),
    "sharding": SuggestedField("device.sharding"),
    "torch_dtype": SuggestedField("training.dtype"),
    "trainer": SuggestedField("training.trainer"),
}


def suggested_field(key: str) -> SuggestedField | None:
    """Return the field of a request that has another name in TrainingArguments, LoraConfig or from_pretrained."""
    return _FIELDS.get(key)


def unknown_field(key: str, accepted: Iterable[str]) -> str:
    """Return the message for an unknown field."""
    names = [*accepted]
    close = get_close_matches(key, names, n=1, cutoff=0.7)
    meant = suggested_field(key) or (close[0] if close else None)
    hint = f"did you mean {meant}? Known" if meant else "known"
    return f"unknown field; {hint} fields are {', '.join(names) or 'none'}"
