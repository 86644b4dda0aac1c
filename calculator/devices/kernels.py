"""The attention kernels among which scaled_dot_product_attention can choose on a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.devices.verdict import card_of
from calculator.stack.changes import older_behaviour

if TYPE_CHECKING:
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Which fused attention kernels can run."""

    #: FlashAttention, which needs compute capability 8.0.
    flash: bool = True
    #: Grouped heads in the memory-efficient kernel, from PyTorch 2.14 on. Before, float32 with grouped heads and no
    #: mask ran the math kernel.
    grouped_efficient: bool = True


def kernels_of(device: Device, stack: StackVersions) -> Kernels:
    """The kernels of a device and of a stack; without a named card, those of a current one."""
    card = card_of(device)
    return Kernels(
        flash=card is None or card.has_flash,
        grouped_efficient="math_kernel_for_float32_groups" not in older_behaviour(stack),
    )
