"""The attention kernels that scaled_dot_product_attention can choose from on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from calculator.devices.gpus import gpu
from calculator.devices.multiprocessors import ASSUMED, Multiprocessors, multiprocessors_of
from calculator.devices.overhead import product_workspace
from calculator.stack.changes import older_behavior
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Collection

    from calculator.devices.gpus import GPU
    from calculator.inputs.device import Device, DeviceType
    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release


#: The compute capabilities with 227 KiB of shared memory per block. Source: CUDA C++ Programming Guide, technical
#: specifications per compute capability.
_LARGE_SHARED_MEMORY = ("9.0", "10.0", "10.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The fused attention kernels that can run."""

    #: FlashAttention, which needs compute capability 8.0.
    flash: bool = True
    #: Grouped heads in the memory-efficient kernel, from PyTorch 2.14 on. Before that, float32 with grouped heads and
    #: without a mask ran the math kernel.
    grouped_efficient: bool = True
    #: bfloat16 in the memory-efficient kernel, which needs compute capability 8.0. Below it, bfloat16 runs the math
    #: kernel. Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, can_use_mem_efficient_attention.
    efficient_bfloat16: bool = True
    #: The grouped matrix product of experts. Without it, transformers multiplies group by group.
    grouped_mm: bool = True
    #: Products of half-precision matrices with a float32 result (torch.addmm with out_dtype).
    float32_products: bool = True
    #: Whether flash has the state of its dropout on the GPU, from PyTorch 2.7 on. Before, it is on the CPU.
    #: Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd (rng_state).
    flash_state_on_gpu: bool = True
    #: Whether the memory-efficient kernel has the seed and the offset of a dropout that drops nothing on the GPU.
    #: Source: aten/src/ATen/native/transformers/cuda/attention.cu, _efficient_attention_forward.
    efficient_state_on_gpu: bool = False
    #: The bytes that each matrix product allocates while it runs, from PyTorch 2.15 on. Before, a thread keeps them.
    product_workspace: int = 0
    #: Whether cuBLAS multiplies the positions and frequencies of rotary embeddings. From transformers 5.19 on, they are
    #: multiplied element by element. From PyTorch 2.13 on, the product of a column and a row is a kernel of Triton.
    #: Source: transformers 5.18.0, models/qwen2/modeling_qwen2.py, Qwen2RotaryEmbedding.forward; PyTorch 2.13,
    #: torch/_native/ops/bmm_outer_product/triton_impl.py, which pull request 181658 removes from 2.12.
    rotary_products: bool = False
    #: The largest block of a key's elements in fla's gated delta rule, by the shared memory of a multiprocessor.
    #: Source: fla-org/flash-linear-attention 0.5.2, fla/utils/_device.py, check_shared_mem; ops/common/chunk_o.py.
    delta_rule_block: int = 64
    #: Whether kernels allocate what they do on CUDA. Otherwise they allocate what traces on the meta device have.
    cuda: bool = False
    #: Whether torch._foreach_norm allocates a norm for each chunk of each tensor, before PyTorch 2.15.
    norms_of_chunks: bool = False
    #: The multiprocessors over which kernels split their work on CUDA.
    multiprocessors: Multiprocessors = ASSUMED
    #: The compute capability whose kernels run on CUDA. Without a named GPU it is 8.0.
    capability: tuple[int, int] = (8, 0)
    #: Whether the memory-efficient kernel runs at all.
    efficient: bool = True

    def flash_trains(self, head_dim: int, *, drops: bool) -> bool:
        """Return whether flash can train heads of a size on CUDA.

        Source: sdp_utils.cpp, check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120.
        """
        small = (8, 6) <= self.capability <= (8, 9) or self.capability[0] == 12
        return not small or head_dim <= 192 or (head_dim > 224 and not drops)


#: The first release of PyTorch with a grouped product for compute capability 9.0, and the first for 8.0 and above.
_FIRST_GROUPED_MM, _GROUPED_MM = (2, 8), (2, 9)

#: The first release of PyTorch whose torch.addmm takes out_dtype.
#: Source: trl/kernels/chunked_logprob.py, _MM_OUT_DTYPE.
FLOAT32_PRODUCTS = (2, 8)


#: The first release of PyTorch whose flash kernel has the state of its dropout on the GPU.
_FLASH_STATE_ON_GPU = (2, 7)

#: The first release whose memory-efficient kernel counts with its seed and offset on the GPU, by the device. Those of
#: 2.14 are there too, but the default figures are those of its steps on the meta device of 2.13.
#: Source: aten/src/ATen/native/transformers/cuda/attention.cu, Note [Seed and Offset Device].
EFFICIENT_STATE_ON_GPU: dict[DeviceType, Release] = {"meta": (2, 15), "cuda": (2, 14)}

#: The first major compute capability that older fused kernels do not support, and the first release that does.
_BLACKWELL, _FUSED_ON_BLACKWELL = 10, (2, 7)

#: The first release of PyTorch with Triton's product of a column and a row, and the first one of transformers without
#: such a product (see `rotary_products`).
_TRITON_PRODUCTS, _ELEMENTWISE_ANGLES = (2, 13), (5, 19)

#: The first release of PyTorch whose torch._foreach_norm has no workspace. Source: ForeachReduceOp.cu.
_NORMS_WITHOUT_CHUNKS = (2, 15)

#: The first release of PyTorch whose wheels prefer cuDNN's attention, on GPUs of these major compute capabilities. They
#: are the first with a cuDNN above 9.15.0.
_FIRST_CUDNN, _CUDNN_MAJORS = (2, 11), (9, 10)


def prefers_cudnn(card: GPU, stack: StackVersions) -> bool:
    """Return whether scaled_dot_product_attention tries cuDNN's kernel first on a GPU.

    Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, check_prefer_cudnn_attention.
    """
    return card.compute_major in _CUDNN_MAJORS and release(stack.torch)[:2] >= _FIRST_CUDNN


def kernels_of(device: Device, stack: StackVersions, packages: Collection[str] | None) -> Kernels:
    """Return the kernels of a device, of a stack and of packages.

    Without a named GPU, they are those of a current GPU.
    """
    return _kernels_of(device.gpu, device.type, stack, fla="fla" in (packages or ()))


@lru_cache(maxsize=256)
def _kernels_of(name: str | None, kind: DeviceType, stack: StackVersions, *, fla: bool) -> Kernels:
    card, torch = None if name is None else gpu(name), release(stack.torch)[:2]
    large = fla and card is not None and card.compute_capability in _LARGE_SHARED_MEMORY
    kernels = Kernels(
        flash=card is None or card.has_flash,
        efficient_bfloat16=card is None or card.has_flash,
        delta_rule_block=128 if large else 64,
        float32_products=torch >= FLOAT32_PRODUCTS,
        grouped_mm=_has_grouped_mm(card, torch),
        product_workspace=product_workspace(card, stack),
        rotary_products=torch < _TRITON_PRODUCTS and release(stack.transformers)[:2] < _ELEMENTWISE_ANGLES,
        flash_state_on_gpu=torch >= _FLASH_STATE_ON_GPU,
        efficient_state_on_gpu=torch >= EFFICIENT_STATE_ON_GPU[kind],
        grouped_efficient="math_kernel_for_float32_groups" not in older_behavior(stack),
        cuda=kind == "cuda",
        norms_of_chunks=kind == "cuda" and torch < _NORMS_WITHOUT_CHUNKS,
    )
    return replace(kernels, **_cuda_fields(card, torch)) if kind == "cuda" else kernels


def _cuda_fields(card: GPU | None, torch: Release) -> dict[str, Any]:
    """Return the fields of kernels that only figures on CUDA depend on.

    Before 2.7, PyTorch has no fused kernel for compute capability 10.0 and above. Source: sdp_utils.cpp,
    check_flash_attention_hardware_support and check_mem_efficient_hardware_support.
    """
    fields: dict[str, Any] = {"multiprocessors": multiprocessors_of(card)}
    if card is not None and card.compute_capability is not None:
        major, minor = map(int, card.compute_capability.split("."))
        fields["capability"] = (major, minor)
        if major >= _BLACKWELL and torch < _FUSED_ON_BLACKWELL:
            fields |= {"flash": False, "efficient": False}
    return fields


def _has_grouped_mm(card: GPU | None, torch: Release) -> bool:
    """Return whether transformers multiplies the rows of all experts at once.

    Source: transformers/integrations/moe.py, _can_use_grouped_mm.
    """
    if torch < _GROUPED_MM:
        return torch >= _FIRST_GROUPED_MM and card is not None and card.compute_major == 9
    return card is None or card.compute_major is None or card.compute_major >= 8
