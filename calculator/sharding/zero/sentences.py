"""What an answer says about a run under DeepSpeed's ZeRO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.inputs.sharding import Offload, offloads_optimizer, pins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.device import Device
    from calculator.inputs.training import Training


def assumptions(training: Training, device: Device, *, quantized: bool) -> Iterator[str]:
    """What DeepSpeed does to the weights, and what of it is not counted."""
    if training.autocast is not None:
        yield (
            "DeepSpeed casts every parameter to bfloat16 and keeps float32 masters of those that are trained, as with"
            " Trainer's bf16=True. There is no autocast."
        )
    yield from _offload(training, device)
    if device.sharding == "zero3":
        yield from _stage_3(quantized=quantized)
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


def _stage_3(*, quantized: bool) -> Iterator[str]:
    yield (
        "DeepSpeed gathers a module's weights before it runs, and those of the modules after it up to"
        " stage3_prefetch_bucket_size elements. It frees them after the module unless they are used again within"
        " stage3_max_reuse_distance. The figures follow each call of a module, in the order of the third step."
    )
    yield "Partitions are padded, so every GPU needs the same memory."
    if quantized:
        yield (
            "Quantization constants are not partitioned: every GPU keeps all of them. Loading is not counted:"
            " transformers loads a 4-bit model whole on each GPU before DeepSpeed partitions it."
        )
    else:
        yield (
            "Loading is not counted. transformers builds the model under deepspeed.zero.Init if TrainingArguments or"
            " accelerate's Accelerator exist before it: each GPU then has its partitions and the weights of one module"
            " at a time, and only the first process reads the checkpoint into host memory. Otherwise each GPU has the"
            " whole model when DeepSpeed starts."
        )


#: Source: deepspeed/runtime/engine.py, _cast_module_mixed_precision, which leaves the parameters of a model that was
#: built under zero.Init; compared by the files of the real Trainer in two processes.
NOT_CAST = (
    "The figures are of a model that is given whole to DeepSpeed, which casts its adapters. If TrainingArguments exist"
    " before from_pretrained, as in most scripts, transformers builds it under deepspeed.zero.Init, and DeepSpeed casts"
    " no adapters: they, and what their layers compute, stay in float32 and need more memory. With"
    " autocast_adapter_dtype=False (adapter_dtype model), the data types are the same either way."
)


def warnings(training: Training, device: Device, *, quantized: bool, float32_adapters: bool) -> Iterator[str]:
    """Risks that a user should know. `float32_adapters`: whether PEFT makes adapters in float32."""
    if device.sharding == "zero3" and float32_adapters and not quantized:
        yield NOT_CAST
    if quantized and device.sharding == "zero3":
        until = (
            "the optimizer's step and the next forward pass too" if training.trainer is None else "the optimizer's step"
        )
        yield (
            "ZeRO-3 does not save the memory of 4-bit weights while a step runs: bitsandbytes' products refer to the"
            f" gathered weights of every layer until the loss is freed, here through {until}, also with gradient"
            " checkpointing. Set device.sharding fsdp with method.quant_storage bfloat16 to shard them."
        )
