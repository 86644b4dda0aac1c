"""The shapes of a decoder layer: what norms its sublayers' inputs and outputs, and how its residuals are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.step import mlp, norms
from calculator.step import operations as ops
from calculator.step.program import unchanged
from calculator.step.self_attention import SelfAttention

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.bound import Bound
    from calculator.step.context import Context, LayerModules
    from calculator.step.mlp import Sublayer
    from calculator.step.tape import Tensor

    #: A layer's norm, by its name.
    Normed = Callable[[LayerModules, str, Tensor], Tensor]


def by(norm: Callable[[Bound, Tensor], Tensor]) -> Normed:
    """A norm with parameters."""
    return lambda modules, name, x: norm(modules[name], x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Attention, then the MLP, each with its residual. The defaults are llama's.

    `before` and `after` name the norms of each sublayer's input and output, empty where there is none. `scaled` is what
    happens to a sublayer's output in its residual's sum: dropout, a multiplier.
    """

    attention: Sublayer = SelfAttention()
    mlp: Sublayer = mlp.gated
    norm: Normed = by(norms.rms_norm)
    before: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    after: tuple[str, str] = ("", "")
    scaled: Callable[[Context, Tensor], Tensor] = unchanged

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        residual = hidden_states
        hidden_states = self._normed(modules, self.before[0], hidden_states)
        hidden_states = self.attention(context, modules, hidden_states)
        hidden_states = context.method.after(context, modules, "attention", hidden_states)
        hidden_states = self._normed(modules, self.after[0], hidden_states)
        hidden_states = ops.add(residual, self.scaled(context, hidden_states), "residual after attention")
        residual = hidden_states
        hidden_states = self._normed(modules, self.before[1], hidden_states)
        hidden_states = self.mlp(context, modules, hidden_states)
        hidden_states = context.method.after(context, modules, "mlp", hidden_states)
        hidden_states = self._normed(modules, self.after[1], hidden_states)
        return ops.add(residual, self.scaled(context, hidden_states), "residual after MLP")

    def _normed(self, modules: LayerModules, name: str, x: Tensor) -> Tensor:
        return self.norm(modules, name, x) if name else x
