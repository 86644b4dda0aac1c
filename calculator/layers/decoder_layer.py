"""The shapes of a decoder layer: what norms its sublayers' inputs and outputs, and how its residuals are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import unchanged
from calculator.layers.self_attention import SelfAttention

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context, LayerModules
    from calculator.layers.mlp import Sublayer

    #: A layer's norm, by its name.
    Normed = Callable[[LayerModules, str, Tensor], Tensor]


def by(norm: Callable[[BoundModule, Tensor], Tensor]) -> Normed:
    """A norm with parameters."""
    return lambda modules, name, x: norm(modules[name], x)


_LLAMA_NORM = by(norms.rms_norm)
_LLAMA_ATTENTION = SelfAttention()


def adapted(
    context: Context, modules: LayerModules, name: Literal["attention", "mlp"], sublayer: Sublayer, x: Tensor
) -> Tensor:
    """A sublayer and what the method puts behind it, while which the sublayer's input stays."""
    out = sublayer(context, modules, x)
    return context.method.after(context, modules, name, out)


def dropped(context: Context, name: str, x: Tensor) -> Tensor:
    """What is left of a sublayer's output; `config[name]` is the probability, and no name drops nothing."""
    return ops.dropout(x, context.config[name], "dropped") if name else x


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Attention, then the MLP, each with its residual. The defaults are llama's.

    `before` and `after` name the norms of each sublayer's input and output, empty where there is none. `scaled` is what
    happens to a sublayer's output in its residual's sum: dropout, a multiplier.
    """

    attention: Sublayer = _LLAMA_ATTENTION
    mlp: Sublayer = mlp.gated
    norm: Normed = _LLAMA_NORM
    before: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    after: tuple[str, str] = ("", "")
    scaled: Callable[[Context, Tensor], Tensor] = unchanged

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        residual = hidden_states
        hidden_states = self._normed(modules, self.before[0], hidden_states)
        hidden_states = adapted(context, modules, "attention", self.attention, hidden_states)
        hidden_states = self._normed(modules, self.after[0], hidden_states)
        hidden_states = ops.add(residual, self.scaled(context, hidden_states), "residual after attention")
        residual = hidden_states
        hidden_states = self._normed(modules, self.before[1], hidden_states)
        hidden_states = adapted(context, modules, "mlp", self.mlp, hidden_states)
        hidden_states = self._normed(modules, self.after[1], hidden_states)
        return ops.add(residual, self.scaled(context, hidden_states), "residual after MLP")

    def _normed(self, modules: LayerModules, name: str, x: Tensor) -> Tensor:
        return self.norm(modules, name, x) if name else x


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Attention and the MLP side by side, both of the same normed input.

    `dropouts` name the probabilities in the config of dropping from each. `residual_last` says that the residual is
    added to their sum; where not, they are added to it one after the other.
    """

    attention: Sublayer
    norm: Normed
    mlp: Sublayer = mlp.gated
    dropouts: tuple[str, str] = ("", "")
    residual_last: bool = False

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        residual = hidden_states
        hidden_states = self.norm(modules, "input_layernorm", hidden_states)
        attn_output = adapted(context, modules, "attention", self.attention, hidden_states)
        attn_output = dropped(context, self.dropouts[0], attn_output)
        mlp_output = adapted(context, modules, "mlp", self.mlp, hidden_states)
        mlp_output = dropped(context, self.dropouts[1], mlp_output)
        if self.residual_last:
            return ops.add(ops.add(attn_output, mlp_output, "attention + MLP"), residual, "residual")
        return ops.add(ops.add(residual, attn_output, "residual + attention"), mlp_output, "residual")
