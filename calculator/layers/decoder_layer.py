"""Decoder layers: the order of attention, MLP, norms and residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import identity
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.mlp import Sublayer

    #: A layer's norm, selected by its name.
    NormByName = Callable[[LayerModules, str, Tensor], Tensor]


def norm_by_name(norm: Callable[[BoundModule, Tensor], Tensor]) -> NormByName:
    """Return a function that runs the layer's norm with a given name."""
    return lambda modules, name, x: norm(modules[name], x)


_LLAMA_NORM = norm_by_name(norms.rms_norm)
_LLAMA_ATTENTION = SelfAttention()


def run_sublayer(
    context: Context,
    modules: LayerModules,
    name: Literal["attention", "mlp"],
    sublayer: Sublayer,
    x: Tensor,
    *,
    positional: bool = False,
) -> Tensor:
    """Run a sublayer, and what the method adds after it. The sublayer's input stays alive meanwhile.

    `positional`: whether attention is called with its input as a positional argument, as the MLP is.
    """
    own = _own_module(modules) if name == "attention" else name
    path = f"{modules.prefix}{own}"
    for called in (*context.method.around_sublayer(modules, name), path):
        if positional or name == "mlp":
            x = enter(called, x)
        else:
            begin(x.tape, called)
    out = leave(path, sublayer(context, modules, x))
    if name == "attention":
        out = context.method.after_attention(context, modules, x, out)
    return context.method.after_sublayer(context, modules, name, out)


def _own_module(modules: LayerModules) -> str:
    """Return the name of the token mixer that reads parameters outside its modules, or `attention`.

    The mixer around a short convolution reads the parameters of the convolution.
    """
    if modules.kind.attention == "conv":
        return "conv"
    mixers: tuple[str, ...] = (
        "self_attn",
        "linear_attn",
        *(("mamba",) if modules.kind.attention == "linear_attention" else ()),
    )
    for mixer in mixers:
        if mixer in modules:
            return mixer
    return "attention"


def config_dropout(context: Context, name: str, x: Tensor) -> Tensor:
    """Apply dropout with the probability `config[name]`. Without a name, do nothing."""
    if not name:
        return x
    path = f"{x.tape.scope}{name}"
    return leave(path, ops.dropout(enter(path, x), context.config[name], "dropped"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialLayer:
    """Attention, then the MLP, each with its residual. The defaults are Llama's."""

    attention: Sublayer = _LLAMA_ATTENTION
    mlp: Sublayer = mlp.gated
    norm: NormByName = _LLAMA_NORM

    #: The names of the norms of each sublayer's input. Empty for none.
    input_norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")

    #: The names of the norms of each sublayer's output. Empty for none.
    output_norms: tuple[str, str] = ("", "")

    #: Applied to a sublayer's output before the residual is added, such as dropout or a multiplier.
    transform_output: Callable[[Context, Tensor], Tensor] = identity

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the layer: (batch, sequence, hidden_size) to the same shape."""
        residual = hidden_states
        hidden_states = self._normed(modules, self.input_norms[0], hidden_states)
        hidden_states = run_sublayer(context, modules, "attention", self.attention, hidden_states)
        hidden_states = self._normed(modules, self.output_norms[0], hidden_states)
        hidden_states = ops.add(residual, self.transform_output(context, hidden_states), "residual after attention")
        residual = hidden_states
        hidden_states = self._normed(modules, self.input_norms[1], hidden_states)
        hidden_states = run_sublayer(context, modules, "mlp", self.mlp, hidden_states)
        hidden_states = self._normed(modules, self.output_norms[1], hidden_states)
        return ops.add(residual, self.transform_output(context, hidden_states), "residual after MLP")

    def _normed(self, modules: LayerModules, name: str, x: Tensor) -> Tensor:
        return self.norm(modules, name, x) if name else x


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLayer:
    """Attention and the MLP in parallel, on the same normed input."""

    attention: Sublayer
    norm: NormByName
    mlp: Sublayer = mlp.gated

    #: The names in the config of the dropout probabilities of attention and the MLP. Empty for none.
    dropouts: tuple[str, str] = ("", "")

    #: Whether the residual is added to the sum of both. Otherwise each is added to the residual in turn.
    residual_last: bool = False

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the layer: (batch, sequence, hidden_size) to the same shape."""
        residual = hidden_states
        hidden_states = self.norm(modules, "input_layernorm", hidden_states)
        attn_output = run_sublayer(context, modules, "attention", self.attention, hidden_states)
        attn_output = config_dropout(context, self.dropouts[0], attn_output)
        mlp_output = run_sublayer(context, modules, "mlp", self.mlp, hidden_states)
        mlp_output = config_dropout(context, self.dropouts[1], mlp_output)
        if self.residual_last:
            return ops.add(ops.add(attn_output, mlp_output, "attention + MLP"), residual, "residual")
        return ops.add(ops.add(residual, attn_output, "residual + attention"), mlp_output, "residual")
