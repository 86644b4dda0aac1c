"""Messages for unknown fields, with the field that was probably meant."""

from __future__ import annotations

import json
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class SuggestedField(NamedTuple):
    """The field of a request that another library's name means, and the value to set. Empty if any value is meant."""

    field: str
    value: str = ""

    @property
    def is_of_a_run(self) -> bool:
        """Whether the request about a whole run has it, and that of an estimate does not."""
        return self.field.startswith("run.")

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
    "epochs": SuggestedField("run.num_train_epochs"),
    "fp16": SuggestedField("training.autocast", "float16"),
    "load_in_4bit": SuggestedField("method", "qlora"),
    "lora_r": SuggestedField("method.r"),
    "max_length": SuggestedField("training.sequence_length"),
    "max_seq_length": SuggestedField("training.sequence_length"),
    "gpu": SuggestedField("device.gpu"),
    "gpus": SuggestedField("device.count"),
    "nproc_per_node": SuggestedField("device.count"),
    "num_epochs": SuggestedField("run.num_train_epochs"),
    "num_gpus": SuggestedField("device.count"),
    "num_processes": SuggestedField("device.count"),
    "optim": SuggestedField("training.optimizer"),
    "per_device_train_batch_size": SuggestedField("training.micro_batch_size"),
    "rank": SuggestedField("method.r"),
    "seq_len": SuggestedField("training.sequence_length"),
    "seq_length": SuggestedField("training.sequence_length"),
    "sharding": SuggestedField("device.sharding"),
    "torch_dtype": SuggestedField("training.dtype"),
    "trainer": SuggestedField("training.trainer"),
}


def suggested_field(key: str) -> SuggestedField | None:
    """Return the field of a request that a name of TrainingArguments, LoraConfig or from_pretrained means."""
    return _FIELDS.get(key) or (SuggestedField(f"run.{key}") if key in _names_of_a_run() else None)


def unknown_field(key: str, accepted: Iterable[str]) -> str:
    """Return the message for an unknown field."""
    names = [*accepted]
    meant = suggested_field(key)
    close = get_close_matches(key, names, n=1, cutoff=0.7)
    if meant is not None and meant.is_of_a_run and not close and meant.field.rpartition(".")[2] not in names:
        hint = f"the answer about a whole run (/run) takes it, as {meant}. Known"
    elif meant or close:
        hint = f"did you mean {meant or close[0]}? Known"
    else:
        hint = "known"
    return f"unknown field; {hint} fields are {', '.join(names) or 'none'}"


def _names_of_a_run() -> frozenset[str]:
    from calculator.inputs.run import RunSettings  # noqa: PLC0415  its settings are parsed with these messages

    return frozenset(setting.name for setting in fields(RunSettings))
