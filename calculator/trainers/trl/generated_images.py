"""Images of prompts in TRL's trainers that generate: what a generation batch keeps, and what scores it.

Source: trl/trainer/grpo_trainer.py of TRL 1.16, _generate_and_score_completions, _prepare_inputs and
_get_per_token_logps_and_entropies; trl/trainer/utils.py, split_pixel_values_by_grid and unsplit_pixel_values_by_grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.dtype import FLOATS
from calculator.common.errors import Problem
from calculator.inputs.sharding import STAGES
from calculator.trainers import image_batch
from calculator.trainers.trl import generated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor
    from calculator.trainers.subject import Subject

#: The tensors with a number for each token.
_OF_TOKENS = ("token_type_ids", "mm_token_type_ids")

#: The tensor that only models have whose pixels are by sequences.
_MASK = "pixel_attention_mask"

#: The tensor from which the pixels of each image are counted.
_GRID = "image_grid_thw"


def problems(prepared: Subject, trainer: str) -> Iterator[Problem]:
    """Yield settings that are not modeled with images: `generate` on several GPUs, and ZeRO-3."""
    training, sharding = prepared.training, prepared.device.sharding
    if not training.has_images:
        return
    if not training.use_vllm and sharding != "none":
        message = f"{trainer} with images on several GPUs is modeled only with vLLM: use true, or one GPU"
        yield Problem(loc="training.use_vllm", msg=message, input=False)
    if sharding == "zero3":
        message = f"{trainer} with images is not modeled under zero3: use zero2 or fsdp, or leave images out"
        yield Problem(loc="device.sharding", msg=message, input=sharding)
    if prepared.model.model_type == "internvl":
        message = f"the tiles that {trainer} counts for internvl are not modeled: use another model, or trl-sft"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)


def shared_tensors(prepared: Subject) -> list[BatchTensor]:
    """Return the tensors that all micro-batches share. A shuffle copies them. Each micro-batch reads a part of each."""
    if not prepared.training.has_images:
        return []
    whole = _tensors_of_step(prepared)
    split = _split_names(whole, prepared.training)
    return [row for row in whole if row[0] not in split]


def copied_tensors(prepared: Subject) -> list[BatchTensor]:
    """Return the tensors of which each micro-batch has a copy, joined from the images of its rows."""
    if not prepared.training.has_images:
        return []
    own = tensors(prepared, prepared.training)
    split = _split_names(own, prepared.training)
    return [row for row in own if row[0] in split]


def processed(context: Context) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the processor's tensors for the prompts: those split by images, those that are shuffled, and the others.

    Tensors with a number for each token are extended to the completions, and then shuffled.
    """
    tape, training = context.tape, context.training
    count, prompt = generated.rows(training), named(training.sequence_length - generated.completion(training), "P")
    prepared: Subject = context.prepared  # type: ignore[assignment]  # a step's model is prepared
    whole = _tensors_of_step(prepared)
    if not whole:
        return [], [], []
    tokens = [name for name, _, _ in whole if name in _OF_TOKENS]
    split = _split_names(whole, training)
    image_tensors = [tape.new(shape, dtype, name) for name, shape, dtype in whole if name in split]
    others = [row for row in whole if row[0] not in (*split, *tokens)]
    shuffled = [tape.new(shape, dtype, name) for name, shape, dtype in others]
    prompt_tensors = [
        tape.new((count, prompt), "int64", f"{name} of prompts") for name in ("input_ids", "attention_mask")
    ]
    prompt_tensors += [tape.new((count, prompt), "int64", f"{name} of prompts") for name in tokens]
    zeros = [tape.new((count, generated.completion(training)), "int64", "zeros of completions") for _ in tokens[:1]]
    shuffled += [tape.new((count, context.length), "int64", name) for name in tokens]
    del zeros
    return image_tensors, shuffled, prompt_tensors


def counted(context: Context, rows: int) -> list[Tensor]:
    """Return the tensors that map pixels to rows, while the model runs on some of these `rows`."""
    tape, images = context.tape, context.training.images
    if images is None or _GRID not in [name for name, _, _ in image_batch.tensors(context.model, context.training)]:
        return []
    sizes = (rows * images.images_per_sequence, rows, rows + 1)
    return [tape.new((size,), "int64", "rows of pixels") for size in sizes]


def tensors(prepared: Subject, training: Training) -> list[BatchTensor]:
    """Return the tensors of images. With DeepSpeed, Trainer casts pixels to its dtype on their way from the host.

    Source: transformers/trainer.py, _prepare_input.
    """
    cast_to = prepared.cast_to if prepared.device.sharding in STAGES else None
    given = image_batch.tensors(prepared.model, training)
    return [(name, shape, cast_to if cast_to and dtype in FLOATS else dtype) for name, shape, dtype in given]


def _tensors_of_step(prepared: Subject) -> list[BatchTensor]:
    return tensors(prepared, prepared.training.by_sequences(prepared.training.micro_batches))


def _split_names(tensors: list[BatchTensor], training: Training) -> set[str]:
    """Return the names of tensors that are split by images, which rows of several tiles each are not."""
    names = {name for name, _, _ in tensors} - {*_OF_TOKENS, _MASK}
    images = training.images
    if _MASK in {name for name, _, _ in tensors} and images is not None and images.images_per_sequence > 1:
        names.discard("pixel_values")
    return names
