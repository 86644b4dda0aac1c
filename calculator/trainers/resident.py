"""The tensors that a trainer keeps on the device from step to step."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named, symbolic
from calculator.architecture.per_model import per_model
from calculator.common.dtype import ITEMSIZE
from calculator.engine.tape import Sizes
from calculator.families import forward_of
from calculator.resident.module_spec import owner_of
from calculator.resident.tensor import ResidentTensor, new_tensor
from calculator.trainers import rotary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.stack.change import ChangeName
    from calculator.trainers.facts import TrainerFacts
    from calculator.trainers.loop import Loop
    from calculator.trainers.subject import Subject

#: Source: transformers/trainer.py, Trainer.get_decay_parameter_names.
_WITHOUT_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")

#: The patterns of older releases, which know some norms by their classes.
#: Source: transformers 4.48.3 and 4.52.4, trainer.py, Trainer.get_decay_parameter_names.
_OLDER_NAMES: dict[ChangeName, re.Pattern[str]] = {
    "norms_by_class": re.compile("bias"),
    "norms_by_name": re.compile("bias|layernorm|rmsnorm"),
}

#: The model types with an RMSNorm that older releases know by its class (pytorch_utils.py, ALL_LAYERNORM_LAYERS).
_KNOWN_CLASSES = ("llama",)

#: Paths of norms whose name `_WITHOUT_DECAY` does not match, and which may not be a torch.nn.LayerNorm: those of Mamba
#: 2, of Nemotron-H, of the vision towers of Mistral 3 and of Qwen, which have LayerNorms from Qwen 3 on, and of the
#: audio tower of Gemma 4.
_OTHER_NAMES = {
    "backbone.norm_f",
    "model.audio_tower.layers.*.norm_out",
    "model.audio_tower.layers.*.norm_post_attn",
    "model.audio_tower.layers.*.norm_pre_attn",
    "model.norm_f",
    "model.vision_tower.ln_pre",
    "model.visual.blocks.*.norm1",
    "model.visual.blocks.*.norm2",
    "model.visual.merger.ln_q",
}


#: The name of the scalar in which a trainer keeps the norm of the gradients.
GRADIENT_NORM = "grad_norm"

#: The name of the tensor with the number of each token's sample in a flattened micro-batch.
SEQ_IDX = "seq_idx"

#: The maximum number of micro-batches of a step whose tensors are listed one by one.
MOST_LISTED = 1024


def kept(loop: Loop, prepared: Subject) -> tuple[ResidentTensor, ...]:
    """Return the tensors that the loop keeps: a step's batches, its scalars, and the caches of rotary embeddings.

    A step's batches replace those of the previous step. The reference step frees each batch itself.
    """
    image_tensors = _image_tensors(loop, prepared) if prepared.training.has_images else ()
    if loop.name is None:
        return (*rotary.kept(loop, prepared), *image_tensors)
    steps, sizes = prepared.training.gradient_accumulation_steps, Sizes()
    return (
        *[_per_micro_batch(*tensor, steps, sizes) for tensor in loop.fetched(prepared)],
        *[_per_micro_batch(*tensor, 1, sizes) for tensor in loop.kept_for_step(prepared)],
        *map(scalar, loop.scalars(prepared)),
        *_rope_deltas(loop, prepared),
        *loop.buffers(prepared),
        *rotary.kept(loop, prepared),
        *image_tensors,
    )


@lru_cache(maxsize=64)
def scalar(name: str) -> ResidentTensor:
    """Return a scalar of a trainer, which is the same in all runs."""
    return ResidentTensor(name=name, shape=(), dtype="float32", component="activations", in_graph=False)


def _rope_deltas(loop: Loop, prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the position offsets that a model with several position axes keeps from its last generation.

    With images, those of each micro-batch replace them.

    Source: transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py, _prepare_position_ids_for_generation.
    """
    if not loop.facts.generates:
        return
    keeps = forward_of(prepared.model).positions_of_token > 1 and not prepared.training.has_images
    batch = loop.generation(prepared.training) if keeps else None
    if batch is not None:
        yield ResidentTensor(name="rope_deltas", shape=(batch.rows, 1), dtype="int64", component="activations")


def while_fetching(loop: Loop, prepared: Subject) -> tuple[ResidentTensor, ...]:
    """Return the tensors alive in addition to a step's batches with images while these are fetched."""
    sizes = Sizes()
    return tuple(_per_micro_batch(*tensor, sizes) for tensor in loop.while_fetching(prepared))


def _image_tensors(loop: Loop, prepared: Subject) -> tuple[ResidentTensor, ...]:
    """Return the tensors that a model, and a second model, keep from step to step because of images."""
    tower = forward_of(prepared.model).tower
    if tower is None:
        return ()
    training = prepared.training.by_sequences(loop.facts.sequences)
    owners = ("", "ref_model.") if loop.compared(prepared) == "model" else ("",)
    return tuple(
        ResidentTensor(name=f"{owner}{name}", shape=shape, dtype=dtype, component="activations")
        for owner in owners
        for name, shape, dtype in tower.kept(training)
    )


def batch(facts: TrainerFacts, training: Training, bounds: tuple[str, ...] = ()) -> list[tuple[str, Shape, DType]]:
    """Return the tensors of a micro-batch with a number for each token, by name.

    `bounds` are the tensors that mark the samples of a flattened micro-batch.
    """
    rows = named(training.micro_batch_size, "B")
    if facts.sequences > 1:
        rows = facts.sequences * rows
    shape = (rows, named(training.sequence_length, "S"))
    if not training.flattened:
        return [(name, shape, "int64") for name in facts.batch]
    tensors: list[tuple[str, Shape, DType]] = [
        (name, shape, "int64") for name in facts.batch if name != "attention_mask"
    ]
    return [*tensors, *_flattened(shape, training, bounds)]


def _per_micro_batch(name: str, shape: Shape, dtype: DType, steps: int, sizes: Sizes) -> ResidentTensor:
    """Return one tensor for each micro-batch of a step.

    Many of them are combined in one, with each rounded up by itself.
    """
    size = sizes[shape, dtype]
    if steps <= MOST_LISTED:
        return new_tensor(name=name, shape=shape, dtype=dtype, component="activations", count=steps, bytes=size * steps)
    rounded = size // ITEMSIZE[dtype]
    whole = (named(steps, "gradient_accumulation_steps"), named(rounded, f"{symbolic(shape)}, rounded"))
    return ResidentTensor(name=f"{name} of every micro-batch", shape=whole, dtype=dtype, component="activations")


def _flattened(
    shape: tuple[Dim, Dim], training: Training, bounds: tuple[str, ...]
) -> Iterator[tuple[str, Shape, DType]]:
    """Yield the tensors that replace the mask in a batch of flattened sequences: positions, and bounds of samples."""
    yield "position_ids", shape, "int64"
    starts = (named(training.samples, "samples") + 1,)
    for name in bounds:
        yield name, (shape if name == SEQ_IDX else starts), "int32"


def groups(
    facts: TrainerFacts, model: Model, trained: Iterable[ResidentTensor], older: frozenset[ChangeName]
) -> list[tuple[ResidentTensor, ...]]:
    """Return the optimizer's parameter groups: with weight decay and without, or a single one."""
    trained = tuple(trained)
    if not facts.decay_groups:
        return [trained]
    change = next(filter(older.__contains__, _OLDER_NAMES), None)
    norms = _norms_without_decay(model) if change is None else _norms_of_classes_without_decay(model)
    without = {
        tensor.name for tensor in trained if _is_without_decay(tensor.name, change) or owner_of(tensor.name) in norms
    }
    parameter_groups = (
        [tensor for tensor in trained if tensor.name not in without],
        [tensor for tensor in trained if tensor.name in without],
    )
    return [tuple(group) for group in parameter_groups if group]


@per_model
def _norms_without_decay(model: Model) -> set[str]:
    """Return the paths of norms that their classes keep from weight decay."""
    return _norms(model, by_class=False)


@per_model
def _norms_of_classes_without_decay(model: Model) -> set[str]:
    """Return the paths of these norms for releases that recognize some norms by their classes."""
    return _norms(model, by_class=True)


def _norms(model: Model, *, by_class: bool) -> set[str]:
    return {
        path
        for path, module in model.paths
        if module.kind == "norm" and not _has_decay(model, path, module, by_class=by_class)
    }


@lru_cache(maxsize=4096)
def _is_without_decay(name: str, change: ChangeName | None) -> bool:
    """Return whether a parameter has no weight decay by its name, in a release with a change or without."""
    names = _WITHOUT_DECAY if change is None else _OLDER_NAMES[change]
    return names.search(name.lower()) is not None


def _has_decay(model: Model, path: str, module: Module, *, by_class: bool) -> bool:
    """Return whether a norm's class does not keep it from weight decay: that of an RMSNorm, which has no bias.

    Of the names, those that no pattern recognizes are listed. Older releases know norms `by_class`.
    """
    if by_class and model.model_type in _KNOWN_CLASSES:
        return False
    return (by_class or path in _OTHER_NAMES) and len(module.parameters) == 1


def embeddings(model: Model, tensors: Iterable[ResidentTensor]) -> set[str]:
    """Return the names of the weights that belong to a torch.nn.Embedding, including PEFT's own."""
    owners = {path for path, module in model.paths if module.kind == "embedding"} | {"prompt_encoder.embedding"}
    return {tensor.name for tensor in tensors if tensor.name.endswith(".weight") and owner_of(tensor.name) in owners}
