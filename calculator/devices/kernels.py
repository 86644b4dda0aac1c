"""The attention kernels that scaled_dot_product_attention can choose from on a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.verdict import card_of
from calculator.stack.changes import older_behavior

if TYPE_CHECKING:
    from collections.abc import Collection

    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions


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
    #: The largest block of a key's elements in fla's gated delta rule, by the shared memory of a multiprocessor.
    #: Source: fla-org/flash-linear-attention 0.5.2, fla/utils/_device.py, check_shared_mem; ops/common/chunk_o.py.
    delta_rule_block: int = 64


def kernels_of(device: Device, stack: StackVersions, packages: Collection[str] | None) -> Kernels:
    """Return the kernels of a device, of a stack and of packages.

    Without a named card, they are those of a current card.
    """
    card = card_of(device)
    large = "fla" in (packages or ()) and card is not None and card.compute_capability in _LARGE_SHARED_MEMORY
    return Kernels(
        flash=card is None or card.has_flash,
        delta_rule_block=128 if large else 64,
        grouped_efficient="math_kernel_for_float32_groups" not in older_behavior(stack),
    )
