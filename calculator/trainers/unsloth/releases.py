"""The changes between releases of Unsloth, and between the releases of PyTorch that it runs on.

Source: Unsloth 2026.8.13 and 2026.10.9, with the unsloth_zoo of the same release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.stack.releases import release

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions

#: The first known release whose kernels and loss are written anew.
REWRITTEN = (2026, 10)

#: The first PyTorch with which that release compiles the layers of padded rows (models/llama.py,
#: _legacy_block_compile; kernels/fast_lora.py, TRACE_LORA_FUNCTIONS).
COMPILES_LAYERS = (2, 11)

#: The first PyTorch whose own attention that release prefers to xformers for rows without padding
#: (utils/attention_dispatch.py, _load_torch_varlen_attn and _native_beats_xformers).
PREFERS_SDPA = (2, 12)

#: The first PyTorch whose products of half-precision factors can be in float32, and the first that the release refuses.
#: Source: unsloth_zoo/fused_losses/fused_linear.py, _fp32_out_ok; pyproject.toml of the release.
FLOAT32_PRODUCTS, REFUSED_TORCH = (2, 8), (2, 15)


def is_rewritten(stack: StackVersions) -> bool:
    """Return whether the release of Unsloth has the new kernels and the new loss."""
    return release(stack.unsloth)[:2] >= REWRITTEN


def torch_is(stack: StackVersions, first: tuple[int, int]) -> bool:
    """Return whether the release of PyTorch is the `first` one or a later one."""
    return release(stack.torch)[:2] >= first
