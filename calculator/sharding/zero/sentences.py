"""The sentences of an answer about a run under DeepSpeed's ZeRO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.inputs.sharding import DeepSpeedConfig, Offload, offloads_optimizer, pins
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.device import Device
    from calculator.inputs.training import Training


#: Source: deepspeed/runtime/engine.py, _cast_module_mixed_precision, which skips the parameters of a model that was
#: built under zero.Init.
NOT_CAST = (
    "transformers builds the model under deepspeed.zero.Init, as it does if TrainingArguments or accelerate's"
    " Accelerator exist before from_pretrained. DeepSpeed then casts no adapters: they, and what their layers compute,"
    " stay in float32, and gradients are cast when they are reduced. A model that is loaded before"
    " (training.deepspeed.zero3_init_flag false) or adapters in its data type (adapter_dtype model, PEFT's"
    " autocast_adapter_dtype=False) need less memory."
)
CAST = (
    "DeepSpeed partitions a loaded model (zero3_init_flag false), which casts its adapters: it is loaded before"
    " TrainingArguments and accelerate's Accelerator exist."
)
#: For requests that leave the flag out. Their scripts may create either of the two first.
MAY_NOT_BE_CAST = (
    "The figures are for a model that is loaded before TrainingArguments and accelerate's Accelerator exist, as in the"
    " reference step. In a script that creates one of them first, transformers builds the model under"
    " deepspeed.zero.Init, and DeepSpeed casts no adapters: they, and what their layers compute, stay in float32, which"
    " needs more memory. Set training.deepspeed.zero3_init_flag true for its figures, or choose its training.trainer."
)

#: Source: deepspeed/runtime/zero/parameter_offload.py, ds_grads_remaining.
KEPT_AFTER_REFERENCE = (
    "ZeRO-3 does not release weights in the backward pass: the reference runs the same modules without adapters before"
    " it, after which DeepSpeed does not see a module leave its backward pass, so that every GPU has all weights when"
    " the pass ends. Set training.precompute_ref_log_probs, which runs no reference in the step."
)

#: Source: trl/models/utils.py, unwrap_model_for_generation.
GATHERED_FOR_GENERATE = (
    "For generate, TRL gathers all weights on every GPU (ds3_gather_for_generation true), and DeepSpeed drops the order"
    " of modules that it has recorded: each step records it again."
)


def assumptions(training: Training, device: Device, *, quantized: bool, float32_adapters: bool) -> Iterator[str]:
    """Yield sentences on what DeepSpeed does to the weights, and on what is not counted.

    `float32_adapters`: whether PEFT creates adapters in float32.
    """
    if training.autocast is not None:
        yield (
            "DeepSpeed casts every parameter to bfloat16 and keeps float32 masters of those that are trained, as with"
            " Trainer's bf16=True. There is no autocast."
        )
        if device.sharding == "zero3" and float32_adapters and not quantized:
            yield NOT_CAST if training.zero3_init_flag else CAST
    yield from _offload(training, device)
    if device.sharding == "zero3":
        yield from _stage_3(quantized=quantized, is_built_partitioned=training.zero3_init_flag)
        if trainer_of(training).generation(training) is not None:
            yield GATHERED_FOR_GENERATE
    yield "NCCL's buffers are outside the caching allocator and not counted."
    yield "The loss is divided and scaled, and gradient norms are computed, as DeepSpeed 0.19 does."


def _offload(training: Training, device: Device) -> Iterator[str]:
    if offloads_optimizer(training.zero):
        yield (
            "Masters, their gradients and the optimizer's states are in host memory, which memory.host_bytes states for"
            " one GPU. DeepSpeed's CPU Adam updates them."
        )
    if (training.zero.offload_param or Offload()).device == "cpu":
        yield (
            "Partitions of the weights are in host memory, where memory.host_bytes counts them, and are copied to the"
            " GPU when they are gathered."
        )
    if device.sharding == "zero3" and pins(training.zero):
        yield (
            "Pinned host memory is counted in the blocks that PyTorch allocates, whose sizes are powers of two:"
            " pin_memory false needs less."
        )


def _stage_3(*, quantized: bool, is_built_partitioned: bool) -> Iterator[str]:
    yield (
        "DeepSpeed gathers a module's weights before it runs, and those of the modules after it up to"
        " stage3_prefetch_bucket_size elements. It frees them after the module unless they are used again within"
        " stage3_max_reuse_distance. The figures follow each call of a module, in the order of the third step."
    )
    yield "Partitions are padded, so every GPU needs the same memory."
    if quantized:
        yield (
            "Quantization constants are not partitioned: every GPU keeps all of them. Loading is not counted:"
            " transformers loads the full 4-bit model on each GPU before DeepSpeed partitions it."
        )
    elif is_built_partitioned:
        yield (
            "The figures of the step leave loading out. Under deepspeed.zero.Init, each GPU has its partitions and the"
            " weights of one module at a time, and only the first process reads the checkpoint into host memory."
        )
    else:
        yield "Loading is not counted. Each GPU has the whole model when DeepSpeed starts."


def warnings(
    training: Training, device: Device, *, quantized: bool, float32_adapters: bool, adapts: bool
) -> Iterator[str]:
    """Yield risks that a user should know.

    `float32_adapters`: whether PEFT creates adapters in float32. `adapts`: whether the method is PEFT's.
    """
    compares = training.trainer in ("trl-dpo", "trl-kto") and not training.precompute_ref_log_probs
    if device.sharding == "zero3" and compares and adapts:
        yield KEPT_AFTER_REFERENCE
    leaves_flag_out = training.trainer is None and (training.deepspeed or DeepSpeedConfig()).zero3_init_flag is None
    if device.sharding == "zero3" and leaves_flag_out and float32_adapters and training.autocast and not quantized:
        yield MAY_NOT_BE_CAST
    if quantized and device.sharding == "zero3":
        until = (
            "the optimizer's step and the next forward pass too" if training.trainer is None else "the optimizer's step"
        )
        yield (
            "ZeRO-3 does not save the memory of 4-bit weights while a step runs: bitsandbytes' products refer to the"
            f" gathered weights of every layer until the loss is freed, here through {until}, also with gradient"
            " checkpointing. Set device.sharding fsdp with method.quant_storage bfloat16 to shard them."
        )
