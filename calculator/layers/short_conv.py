"""Causal convolutions over a few positions with one filter for each channel: torch's, or those of causal-conv1d."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.convolution import conv1d, packaged_conv1d
from calculator.engine.module_calls import external, transposed

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context


def without_padding(context: Context, hidden_states: Tensor) -> Tensor:
    """Multiply hidden states with the padding mask, if there is one (apply_mask_to_padding_states)."""
    given = context.recurrent_mask
    if given is None:
        return hidden_states
    dtype, mask = hidden_states.dtype, ops.view(given, (*given.shape, 1))
    return ops.cast(ops.mul(hidden_states, mask, "input without padding"), dtype, "input without padding, cast")


def causal_conv1d(
    context: Context, conv: BoundModule, x: Tensor, act: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Convolve (batch, channels, positions) with the filters of an nn.Conv1d.

    Each position sees those before it.
    """
    weight, bias, length = _filters(conv), conv.own.get("bias"), x.shape[2]
    width = weight.shape[2]
    state = context.cache.state() if context.cache is not None else None
    if state is not None:
        return _update(context, conv, x, state, act)
    if context.cache is not None:
        x = context.cache.update_conv_state(x, width)
    if "causal_conv1d" in (context.training.kernels or ()):
        out = packaged_conv1d(x, weight, bias, "convolution")
        return out if context.cache is None else ops.slice_from_end(out, (*x.shape[:2], length))
    cast = ops.cast(x, weight.dtype, "input of the convolution in the weight's dtype")
    out = conv1d(cast, weight, bias, width - 1, "convolution")
    del cast
    out = ops.narrow(out, x.shape)
    out = ops.cast(out if act is None else act(out), x.dtype, "convolution, cast back")
    return out if context.cache is None else ops.slice_from_end(out, (*x.shape[:2], length))


def _filters(conv: BoundModule) -> Tensor:
    """Return the weight as a view (`weight.squeeze(1)`), of which autocast caches no copy.

    The module around the convolution reads its parameters, and the graph keeps the view.
    """
    weight = conv.own["weight"]
    if conv.tape.calls_modules:
        for parameter in conv.own.values():
            external(conv.name.rpartition(".")[0], parameter)
        return transposed(weight)
    return ops.view(ops.view(weight, (weight.shape[0], weight.shape[2])), weight.shape)


def _update(
    context: Context, conv: BoundModule, x: Tensor, state: Tensor, act: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Convolve one position with the cached positions before it (causal_conv1d_update)."""
    weight, bias, shape = _filters(conv), conv.own.get("bias"), x.shape
    whole = ops.cat((state, x), (*shape[:2], state.shape[2] + shape[2]), "input of the convolution, with the cached")
    whole = ops.cast(whole, weight.dtype, "input of the convolution in the weight's dtype")
    if context.cache is not None:
        context.cache.update_state()
    out = ops.slice_from_end(conv1d(whole, weight, bias, 0, "convolution"), shape)
    if act is not None:
        out = act(out)
    return ops.cast(out, x.dtype, "convolution, cast back")
