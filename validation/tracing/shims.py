"""Patches that make torch and transformers behave on the meta device as on CUDA."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb

from validation.tracing.emulations import autocast, functional, sdpa

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUNCTIONAL = "torch.nn.functional"
_FLASH = "transformers.modeling_flash_attention_utils"
_MASKS = "transformers.masking_utils"

#: Functions that are fused on CUDA, or that copy their operands there.
FUSED: dict[str, Any] = {
    "torch.einsum": functional.einsum,
    f"{_FUNCTIONAL}.dropout": functional.dropout,
    f"{_FUNCTIONAL}.mish": functional.mish,
    f"{_FUNCTIONAL}.softmax": functional.softmax,
}


def _masks_nothing(mask: Any) -> bool:
    """Return whether a mask is known to have only ones, such as that of an image's pixels.

    A text's mask has padding.
    """
    try:
        return bool(mask.all())
    except RuntimeError:  # its values are not known
        return False


def _needs_no_bidirectional_mask(mask: Any, length: int, window: int | None = None) -> bool:
    """Return whether no token is masked: no mask is passed or it masks nothing, and every token is in the window."""
    return (mask is None or _masks_nothing(mask)) and (window is None or length < window)


#: Checks of tensor values, which the meta device does not have: no sequence is packed, and the mask of a text is passed
#: only with padding.
VALUE_CHECKS: dict[str, Any] = {
    f"{_MASKS}.find_packed_sequence_indices": lambda _: None,
    f"{_MASKS}.fast_all": _masks_nothing,
    f"{_MASKS}._ignore_bidirectional_mask_sdpa": _needs_no_bidirectional_mask,
    f"{_FLASH}._is_packed_sequence": lambda *_: False,
}

#: A warning that reads tensor values.
WARNING: dict[str, Any] = {
    "transformers.modeling_utils.PreTrainedModel.warn_if_padding_and_no_attention_mask": lambda *_: None,
}

#: Functions of the flash_attn package, which needs CUDA.
FLASH_ATTN: dict[str, Any] = {
    f"{_FLASH}._lazy_imports": lambda *_, **__: (sdpa.flash_attn_func, sdpa.flash_attn_varlen_func, None, None, None),
    f"{_FLASH}.is_flash_attn_available": lambda *_, **__: True,
    "transformers.modeling_utils.PreTrainedModel._flash_attn_import_error": lambda *_, **__: None,
}

#: Autocast, which torch does not have for the meta device.
AUTOCAST: dict[str, Any] = {
    "torch.autocast": autocast.autocast,
    "torch.amp.autocast": autocast.autocast,
    "torch.amp.autocast_mode.autocast": autocast.autocast,
    "torch.amp.is_autocast_available": autocast.is_autocast_available,
    "torch.is_autocast_enabled": autocast.is_autocast_enabled,
    "torch.get_autocast_dtype": autocast.get_autocast_dtype,
}


@contextmanager
def emulate_cuda(
    *, before_2_14: bool = False, known_values: bool = False, causal_masks_of_ones: bool = False
) -> Iterator[None]:
    """Make the meta device allocate as CUDA does inside the context.

    With `known_values`, the values of integer tensors are known, and transformers checks them itself. With
    `causal_masks_of_ones`, the masks that causal attention receives mask nothing, as those of a target.

    bitsandbytes caches its first code book on whatever device it was created, so each trace starts with an empty cache.
    """
    attention = {f"{_FUNCTIONAL}.scaled_dot_product_attention": sdpa.Attention(before_2_14=before_2_14)}
    checks = WARNING if known_values else WARNING | VALUE_CHECKS
    if causal_masks_of_ones:
        checks = checks | {f"{_MASKS}.fast_all": lambda _: True}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(bnb.functional.name2qmap, clear=True))
        for name, replacement in (FUSED | checks | FLASH_ATTN | AUTOCAST | attention).items():
            stack.enter_context(mock.patch(name, replacement))
        yield


@contextmanager
def patched_model_code() -> Iterator[None]:
    """Patch the model files that are imported so far: autocast works on meta, and `torch.tensor` allocates visibly."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.tensor", functional.tensor))
        for name, module in list(sys.modules.items()):
            if name.startswith("transformers.") and hasattr(module, "maybe_autocast"):
                stack.enter_context(mock.patch.object(module, "maybe_autocast", autocast.maybe_autocast))
        yield
