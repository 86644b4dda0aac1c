"""The tensors that scaled rotary embeddings keep from their first forward pass on, as plain attributes.

Source: transformers/modeling_rope_utils.py of 5.24, dynamic_rope_update: `long_inv_freq` of
longrope_frequency_update, and `max_seq_len_cached` of dynamic_frequency_update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calculator.resident.tensor import ResidentTensor
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.module import Buffer
    from calculator.trainers.loop import Loop
    from calculator.trainers.subject import Subject

#: How the name of a rotary embedding's buffer ends. There is one buffer, or one for each attention type.
_ORIGINAL = "original_inv_freq"

#: The first release that computes the frequencies of long sequences for short ones too, and keeps both.
_KEEPS_BOTH = (5, 24)

#: The values of `rope_type` with which an embedding keeps a tensor.
_KEEP = ("longrope", "dynamic")


def kept(loop: Loop, prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the tensors that the rotary embeddings of the model keep, and those of a second model that runs."""
    types = prepared.model.config.get("rope_type")
    if types is None or (isinstance(types, str) and types not in _KEEP):
        return
    scaled = [buffer for buffer in prepared.model.buffers if buffer.name.endswith(_ORIGINAL)]
    for model in ("", "ref_model.") if loop.compared(prepared) == "model" else ("",):
        for buffer in scaled:
            yield from _rotary_buffers(buffer, model, prepared)


def _rotary_buffers(original: Buffer, model: str, prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the frequencies of long sequences, or the longest length of a sequence so far."""
    prefix = f"{model}{original.name.removesuffix(_ORIGINAL)}"
    match _rope_type(original.name, prepared.model.config):
        case "longrope" if release(prepared.stack.transformers) >= _KEEPS_BOTH:
            yield ResidentTensor(
                name=f"{prefix}long_inv_freq", shape=original.shape, dtype="float32", component="activations"
            )
        case "dynamic" if _longest_sequence(prepared) > int(prepared.model.config["max_position_embeddings"]):
            yield ResidentTensor(name=f"{prefix}max_seq_len_cached", shape=(), dtype="int64", component="activations")


def _rope_type(name: str, config: Mapping[str, object]) -> object:
    """Return the `rope_type` of an embedding. Some families have one for each attention type."""
    types = config.get("rope_type")
    if not isinstance(types, Mapping):
        return types
    kind = name.rpartition(".")[2].removesuffix(f"_{_ORIGINAL}")
    return types.get(kind)


def _longest_sequence(prepared: Subject) -> int:
    """Return the number of positions of the longest sequence, including virtual tokens."""
    return int(prepared.training.sequence_length) + prepared.method.virtual_tokens
