"""Decoders whose MLP is a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.step import indexing, routers
from calculator.step import operations as ops
from calculator.step.decoder_layer import Sequential
from calculator.step.experts import experts, gated
from calculator.step.program import Program

if TYPE_CHECKING:
    from calculator.step.context import Context, LayerModules
    from calculator.step.experts import Gate
    from calculator.step.routers import Router
    from calculator.step.tape import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A router and the experts that it chooses from: an MLP. `gate` and `experts` name their modules."""

    router: Router = routers.softmax_first
    gate: str = "mlp.gate"
    experts: str = "mlp.experts"
    activate: Gate = gated

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        if context.config.get("router_jitter_noise"):
            x = indexing.jittered(x)
        hidden_states = ops.view(x, (x.shape[0] * x.shape[1], x.shape[2]))
        weights, indices, *_beside = self.router(context, modules[self.gate], hidden_states)
        hidden_states = experts(context, modules[self.experts], hidden_states, indices, weights, self.activate)
        return ops.view(hidden_states, x.shape)


PROGRAMS = {
    "mixtral": Program(layer=Sequential(mlp=Mixture()), source="transformers/models/mixtral/modeling_mixtral.py"),
}
