"""The sentences of an answer about a run under FSDP2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.inputs.sharding import FSDPConfig
from calculator.resident.quantization import Quantization
from calculator.stack.releases import release
from calculator.stack.torch_releases import FREES_EARLY
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel


def assumptions(prepared: PreparedModel) -> Iterator[str]:
    """Yield sentences on what the figures assume, and on what is not counted."""
    count, training = prepared.device.count, prepared.training
    config = training.fsdp_config or FSDPConfig()
    after = "frees them after its forward pass" if config.reshard_after_forward else "keeps them to its backward pass"
    yield (
        f"The figures are for the first of {count:,} GPUs under FSDP2, as accelerate wraps the model: each decoder"
        " layer, the input embeddings, and the output head with the final norm are units of their own. A unit gathers"
        f" its weights before it runs and {after}. The first GPU's shards are never smaller than another's."
    )
    if release(prepared.stack.torch)[:2] >= FREES_EARLY:
        yield (
            f"PyTorch {prepared.stack.torch}: FSDP2 frees the output of an all-gather before the next unit's weights"
            " are copied out of theirs, and a unit's last gradient before its reduced ones are allocated"
            " (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, wait_for_unshard; _fsdp_collectives.py,"
            " foreach_reduce)."
        )
    yield "NCCL's buffers are outside the caching allocator and not counted."
    if config.cpu_offload:
        yield (
            "Shards, their gradients and the optimizer's states are in host memory, which memory.host_bytes states for"
            " each GPU; the optimizer runs there. What else the host copies and buffers is not counted."
        )
    if training.gradient_accumulation_steps > 1:
        yield (
            "Gradients are reduced in the last micro-batch only, as accelerate's no_sync does. Until then each GPU"
            " keeps all of them whole."
        )
    if trainer_of(training).generation(training) is not None:
        yield (
            "generate gathers every layer for each token that it makes, which no other sharding does. communication"
            " counts the collectives of the step after it alone."
        )
    if training.autocast is not None:
        yield _mixed_precision(training, quantized=prepared.method.facts.quantizes_base)


def _mixed_precision(training: Training, *, quantized: bool) -> str:
    masters = "" if quantized else " Trained parameters are stored in float32."
    return (
        f"Under fsdp, training.autocast is mixed precision as accelerate sets it: units gather their weights, compute"
        f" and reduce gradients in {training.autocast}.{masters}"
    )


def warnings(prepared: PreparedModel) -> Iterator[str]:
    """Yield risks that a user should know."""
    quantization, autocast = prepared.method.base_quantization(prepared.training), prepared.training.autocast
    if not isinstance(quantization, Quantization):
        return
    if quantization.storage == "uint8":
        yield (
            "FSDP does not shard 4-bit weights that are stored as uint8: each GPU keeps all of them. Set"
            " method.quant_storage bfloat16 to shard them."
        )
    elif autocast is not None and quantization.storage != autocast:
        yield (
            f"Mixed precision casts gathered parameters to {autocast}, also packed 4-bit weights that are stored as"
            f" {quantization.storage}, which destroys them. Set method.quant_storage {autocast}."
        )
    if quantization.storage != "uint8":
        yield (
            "from_pretrained loads the whole 4-bit model on each GPU, and accelerate keeps it there until all of it is"
            " sharded, whatever cpu_offload and cpu_ram_efficient_loading are. A GPU that the model itself does not fit"
            " runs out of memory then, whatever the number of GPUs. Answer.AI's fsdp_qlora, which trains 70B"
            " on two GPUs of 24 GB, does not use from_pretrained: memory.phases has what steps alone allocate."
        )
