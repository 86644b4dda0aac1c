"""The files of a checkpoint, and the host memory that writing them takes.

Sources: transformers 5.24, trainer.py (_save_checkpoint), modeling_utils.py (save_pretrained); peft 0.21, peft_model.py
(save_pretrained); huggingface_hub, serialization/_base.py (split_state_dict_into_shards_factory).
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING

from calculator.checkpoint import safetensors_file, torch_file
from calculator.checkpoint.optimizer_file import grouped, state_dict
from calculator.checkpoint.parameters import named_parameters
from calculator.resident.per_parameter import tensors
from calculator.run.answer import SavedFile
from calculator.run.sentences import LARGEST_STATE, SAFETENSORS
from calculator.trainers.resident import embeddings, groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.checkpoint.parameters import Named
    from calculator.checkpoint.safetensors_file import SavedTensor
    from calculator.estimation.answer import Row
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.resident_state import ResidentState

#: The maximum number of bytes of tensors in a file (max_shard_size, "50GB").
MAX_SHARD_SIZE = 50 * 10**9

_SAFETENSORS = "safetensors 0.8: an 8-byte length, a JSON header, and the tensors"
_TORCH = "torch.save of the optimizer's state dict: a pickle and the storages in a ZIP archive"
_INDEX = "transformers' index of the weights' files"

#: The sentence on other files of a checkpoint: the tokenizer, and files of some kilobytes in total.
NOT_COUNTED = (
    "Files of a checkpoint that are not counted: config.json, generation_config.json or adapter_config.json, README.md,"
    " trainer_state.json, training_args.bin, scheduler.pt and rng_state.pth, which are a few kilobytes each, and the"
    " tokenizer."
)


class Saving:
    """The files that a run writes."""

    def __init__(self, resident: ResidentState) -> None:
        self.resident = resident
        self.prepared: PreparedModel = resident.prepared
        self.parameters: list[Named] = list(named_parameters(self.prepared))

    @property
    def saved(self) -> Sequence[SavedTensor]:
        """The tensors that `save_pretrained` writes: the adapter's, or the model's."""
        return self.prepared.method.saved_tensors(self.parameters, self.prepared.model)

    @property
    def model_files(self) -> tuple[SavedFile, ...]:
        """The files of `save_pretrained`."""
        if self.prepared.method.facts.trains_base:
            return whole_model(self.saved)
        return (_weights("adapter_model.safetensors", self.saved),)

    @property
    def groups(self) -> list[list[Named]]:
        """The optimizer's groups of parameters."""
        facts, trained = self.resident.trainer, [tensor for tensor in self.resident.whole if tensor.trained]
        trained_parameters = [parameter for parameter in self.parameters if parameter.kind.trained]
        grouped_names = grouped(trained_parameters, groups(facts, self.prepared.model, trained, self.prepared.older))
        if facts.decay_groups and len(grouped_names) == 1:
            grouped_names.append([])  # the Trainer has both groups even if one is empty
        return grouped_names

    @property
    def optimizer_files(self) -> tuple[SavedFile, ...]:
        """The files that a run needs to be resumed, besides the model's: that of the optimizer's states."""
        model, facts = self.prepared.model, self.resident.trainer
        overrides = facts.embeddings_in_32_bits and "embeddings_in_8_bits" not in self.prepared.older
        in_32_bits = embeddings(model, self.resident.tensors) if overrides else ()
        size = torch_file.file_bytes(state_dict(self.groups, self.resident.optimizer, in_32_bits), "optimizer")
        return (SavedFile(name="optimizer.pt", bytes=size, source=_TORCH),)

    @property
    def gpu_rows(self) -> tuple[Row, ...]:
        """The tensors that saving allocates on a GPU."""
        return ()

    @property
    def largest_state(self) -> int:
        """The bytes of the largest optimizer state. `torch.save` copies each state to the host by itself."""
        states = (
            tensor for tensor in tensors(self.resident.optimizer_states) if tensor.component == "optimizer_states"
        )
        return max((state.bytes // state.count for state in states), default=0)

    def host_bytes(self, *, optimizer: bool) -> int:
        """Return the bytes that saving adds to the host memory of all processes.

        `optimizer`: whether the optimizer's states are saved too.
        """
        return max(self.host_bytes_of_model, self.largest_state if optimizer else 0)

    def host_sentence(self, *, optimizer: bool) -> str:
        """Return the sentence on where this memory comes from."""
        is_state = optimizer and self.largest_state > self.host_bytes_of_model
        return LARGEST_STATE if is_state else SAFETENSORS

    @property
    def host_bytes_of_model(self) -> int:
        """The bytes of the largest file's tensors.

        safetensors copies all tensors of a file to the host before it writes.
        """
        return max(sum(tensor.bytes for tensor in shard) for shard in shards(self.saved))


def whole_model(saved: Sequence[SavedTensor]) -> tuple[SavedFile, ...]:
    """Return the files of a whole model: one, or several with an index."""
    split = shards(saved)
    if len(split) == 1:
        return (_weights("model.safetensors", saved),)
    names = [f"model-{number:05d}-of-{len(split):05d}.safetensors" for number in range(1, len(split) + 1)]
    files = [_weights(name, shard) for name, shard in zip(names, split, strict=True)]
    index = {
        "metadata": {
            "total_parameters": sum(prod(tensor.shape) for tensor in saved),
            "total_size": sum(tensor.bytes for tensor in saved),
        },
        "weight_map": {tensor.name: name for name, shard in zip(names, split, strict=True) for tensor in shard},
    }
    length = len(json.dumps(index, indent=2, sort_keys=True)) + 1
    return (*files, SavedFile(name="model.safetensors.index.json", bytes=length, source=_INDEX))


def shards(saved: Sequence[SavedTensor]) -> list[list[SavedTensor]]:
    """Return the tensors of each file in order. A tensor that does not fit a file begins another one."""
    split: list[list[SavedTensor]] = [[]]
    size = 0
    for tensor in saved:
        if split[-1] and size + tensor.bytes > MAX_SHARD_SIZE:
            split.append([])
            size = 0
        split[-1].append(tensor)
        size += tensor.bytes
    return split


def _weights(name: str, saved: Sequence[SavedTensor]) -> SavedFile:
    return SavedFile(name=name, bytes=safetensors_file.file_bytes(saved), source=_SAFETENSORS)
