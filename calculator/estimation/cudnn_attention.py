"""The sentences of an answer about cuDNN's attention, which PyTorch prefers to flash on some GPUs.

The kernel saves and allocates what is in aten/src/ATen/native/cudnn/MHA.cpp of PyTorch. Its workspace has two parts:
that of cudnn-frontend (include/cudnn_frontend/node/scaled_dot_product_flash_attention.h, get_fe_workspace_size_node)
and the one that cuDNN reports for a plan, which is closed source. The second part is that of cuDNN 9.24 and 9.26.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.devices.kernels import prefers_cudnn
from calculator.devices.verdict import card_of
from calculator.families import forward_of
from calculator.layers.masks import attention_types
from calculator.stack.changes import older_behavior
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.devices.gpus import GPU
    from calculator.estimation.request import Request
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.methods.prepared_model import PreparedModel

#: The multiple of bytes to which an allocation is rounded.
_BLOCK = 512

#: The first release of PyTorch with cuDNN's kernel for heads of 256 on every GPU that prefers it. It trains no other
#: heads above 128. And the first release whose memory-efficient kernel has its random seed and offset on the GPU too.
_HEADS_OF_256, _SEEDS_ON_GPU = (2, 14), (2, 15)

#: The longest sequence for which cuDNN has a second accumulator of the queries' gradient on compute capability 10.
_SHORT = 128

_WAY_OUT = " TORCH_CUDNN_SDPA_DEPRIORITIZED=1 in the environment makes PyTorch prefer flash."

#: The difference in the passes of `generate`.
_IN_PASSES = " Both keep equal bytes. Over a long cache, cuDNN's may need a workspace, which is not counted."


class Heads(NamedTuple):
    """The sizes of one call of attention."""

    batch: int
    heads: int
    groups: int
    length: int
    head_dim: int
    value_dim: int


def remarks(request: Request, model: Model, prepared: PreparedModel) -> Iterator[str]:
    """Yield how figures with cuDNN's kernel differ, if PyTorch runs it for the request.

    Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, can_use_cudnn_attention.
    """
    card = card_of(request.device)
    if card is None or not prefers_cudnn(card, request.stack) or not _runs_sdpa(request, model, prepared):
        return
    heads = _heads(request, model)
    if heads is None or not _supports(card, request, heads):
        return
    yield _sentence(card, request, model, heads, masked=_is_masked(request, model, heads)) + _WAY_OUT


def passes_remarks(device: Device, stack: StackVersions, *, attention: str, dtype: DType) -> Iterator[str]:
    """Yield that the passes of `generate` may run cuDNN's kernel, if PyTorch prefers it on the device."""
    card = card_of(device)
    if card is not None and prefers_cudnn(card, stack) and attention == "sdpa" and dtype != "float32":
        yield _opening(card, stack, "flash") + _IN_PASSES + _WAY_OUT


def trace_remarks(request: Request) -> Iterator[str]:
    """Yield that a traced step may run cuDNN's kernel, if PyTorch prefers it on the device."""
    card, training = card_of(request.device), request.training
    half = training.autocast is not None or training.dtype != "float32"
    if card is not None and prefers_cudnn(card, request.stack) and training.attention == "sdpa" and half:
        yield _opening(card, request.stack, "flash or memory-efficient") + _WAY_OUT


def backward_workspace(card: GPU, heads: Heads) -> int:
    """Return the bytes of the workspace of cuDNN's backward pass.

    It contains a float32 accumulator of the queries' gradient, a sum for each row of scores, and keys' and values'
    gradients of every head if heads are grouped.
    """
    batch, number, groups, length, head_dim, value_dim = heads
    workspace = 4 * batch * number * length * (head_dim + 1)
    if groups != number:
        workspace += 2 * batch * number * length * (head_dim + value_dim)
    if card.compute_major == 9:
        return workspace + 256
    return workspace + 128 + _second_accumulator(card, heads)


def flash_temporaries(heads: Heads) -> int:
    """Return the bytes of the temporaries of flash's backward pass.

    Source: calculator/layers/kernels.py, flash.
    """
    batch, number, groups, length, head_dim, _ = heads
    rows, width = _multiple(length, 128), _multiple(head_dim, 32 if head_dim <= 128 else 64)
    expanded = 2 * _multiple(2 * batch * number * length * head_dim, _BLOCK) if groups != number else 0
    return 4 * batch * number * rows * (width + 1) + expanded


def _sentence(card: GPU, request: Request, model: Model, heads: Heads, *, masked: bool) -> str:
    other = "memory-efficient" if masked or heads.head_dim != heads.value_dim else "flash"
    opening = _opening(card, request.stack, other)
    if heads.head_dim > 192 and card.compute_major != 9:
        return f"{opening} cuDNN's workspace for heads of {heads.head_dim} is not known there."
    if other == "flash":
        cudnn, flash = backward_workspace(card, heads), flash_temporaries(heads)
        comparison = (
            f" Both keep equal bytes for the backward pass. There, cuDNN needs a workspace of {cudnn:,} bytes a layer,"
            f" and flash temporaries of {flash:,} bytes"
        )
        higher = max(_BLOCK, _multiple(cudnn, _BLOCK) - flash)
    else:
        workspace = _BLOCK + _second_accumulator(card, heads)
        comparison = f" cuDNN's backward pass needs at most {workspace:,} bytes more in a layer"
        higher = workspace
        if release(request.stack.torch)[:2] < _SEEDS_ON_GPU:
            comparison += f", and its random seed and offset take {2 * _BLOCK:,} bytes in each"
            higher += 2 * _BLOCK * len(model.decoder.layers)
    limit = f"no peak is more than {higher:,} bytes higher"
    return f"{opening}{comparison}: {limit}. Reserved memory can differ, because blocks have other sizes."


def _opening(card: GPU, stack: StackVersions, other: str) -> str:
    return (
        f"PyTorch {stack.torch} prefers cuDNN's attention on GPUs of compute capability {card.compute_capability};"
        f" the figures are for its {other} kernel."
    )


def _second_accumulator(card: GPU, heads: Heads) -> int:
    short = card.compute_major != 9 and heads.length <= _SHORT
    return 4 * heads.batch * heads.heads * heads.length * heads.head_dim if short else 0


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _runs_sdpa(request: Request, model: Model, prepared: PreparedModel) -> bool:
    """Return whether attention is sdpa in half precision."""
    training = request.training
    if training.attention != "sdpa" or prepared.trainer.facts.is_interval:
        return False
    uncapped = "sdpa_without_softcapping" in older_behavior(request.stack, model.model_type)
    half = training.autocast is not None or prepared.hidden_dtype != "float32"
    return half and (uncapped or forward_of(model).sdpa == "sdpa")


def _heads(request: Request, model: Model) -> Heads | None:
    config, training = model.config, request.training
    number = config.get("num_attention_heads")
    if not number or not (head_dim := _head_dim(config, number)):
        return None
    value_dim = config.get("v_head_dim") if config.get("kv_lora_rank") else None
    groups = number if value_dim else config.get("num_key_value_heads") or number
    length = training.sequence_length + request.method.virtual_tokens
    if training.flattened:
        length *= training.micro_batch_size
    batch = 1 if training.flattened else training.micro_batch_size
    return Heads(batch, number, groups, length, head_dim, value_dim or head_dim)


def _head_dim(config: Config, number: int) -> int:
    if config.get("kv_lora_rank") and config.get("qk_nope_head_dim"):
        return int(config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    return int(config.get("head_dim") or (config.get("hidden_size") or 0) // number)


def _supports(card: GPU, request: Request, heads: Heads) -> bool:
    """Return whether cuDNN's kernel trains heads of these sizes.

    Source: sdp_utils.cpp, check_cudnn_tensor_shapes and check_cudnn_d256_bprop_head_dim.
    """
    width, value_width = heads.head_dim, heads.value_dim
    if width % 8 or value_width % 8:
        return False
    if max(width, value_width) <= 128 or (width, value_width) == (192, 128):
        return True
    if release(request.stack.torch)[:2] >= _HEADS_OF_256:
        return width == value_width == 256
    return card.compute_major == 9 and max(width, value_width) <= 256


def _is_masked(request: Request, model: Model, heads: Heads) -> bool:
    """Return whether a layer has a mask."""
    forward = forward_of(model)
    if request.training.padding or request.method.facts.masks_attention:
        return True
    if forward.always_masked or forward.own_masks or forward.masks_of_batch is not None:
        return True
    window = model.config.get("sliding_window") or heads.length
    return heads.length > window and "sliding_attention" in attention_types(model.decoder.layers)
