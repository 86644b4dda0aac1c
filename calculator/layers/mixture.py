"""A mixture of experts: an MLP that consists of a router and the experts that it chooses for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leaf, leave_with
from calculator.layers import mlp, routers
from calculator.layers.experts import experts, gated

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.experts import Gate
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.mlp import Sublayer
    from calculator.layers.routers import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """A mixture of experts: a router, and the experts that it chooses from."""

    router: Router = routers.softmax_first

    #: The names of the router's and the experts' modules.
    gate: str = "mlp.gate"
    experts: str = "mlp.experts"

    #: The field of the config that sets whether the input is multiplied by noise.
    jitter: str | None = None

    #: Whether the router multiplies a view of the input by noise again.
    jitters_twice: bool = False

    activate: Gate = gated

    #: Whether the products of the experts read their weights themselves, not a transposed view.
    is_transposed: bool = False

    #: Whether DeepSpeed's stage 3 gathers all of its parameters together.
    is_leaf: bool = False

    def __call__(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the mixture: (batch, sequence, hidden_size) to the same shape."""
        if not self.is_leaf:
            return self.mixed(context, modules, x)
        with leaf(f"{modules.prefix}mlp", x.tape, modules.names):
            return self.mixed(context, modules, x)

    def mixed(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the router and the experts: (batch, sequence, hidden_size) to the same shape."""
        hidden_states = self.flattened(context, x)
        weights, indices, *_alive = self.chosen(context, modules, hidden_states)
        bound_experts = modules[self.experts]
        hidden_states = experts(
            context, bound_experts, hidden_states, indices, weights, self.activate, is_transposed=self.is_transposed
        )
        return ops.view(hidden_states, x.shape)

    def chosen(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Run the router. Return weights, indices, logits, and tensors that stay alive with them."""
        gate = modules[self.gate]
        parameters, weights = gate.own, context.method.expert_weights(context, gate)
        if weights is not parameters:
            gate.own = {**parameters, "weight": weights["weight"]}
        chosen = self.router(context, gate, enter(gate.name, hidden_states))
        gate.own = parameters
        del weights
        context.record_router_logits(chosen[2])
        best, indices, logits, *alive = chosen
        return (*leave_with(gate.name, best, indices, logits), *alive)

    def flattened(self, context: Context, x: Tensor) -> Tensor:
        """Flatten (batch, sequence, hidden_size) to (tokens, hidden_size)."""
        jitters = bool(self.jitter and context.config[self.jitter]) and context.tape.trains
        if jitters:
            x = in_place.jitter_(x)
        hidden_states = ops.view(x, (x.shape[0] * x.shape[1], x.shape[2]))
        return in_place.jitter_view_(hidden_states) if jitters and self.jitters_twice else hidden_states


def in_sparse_layers(mixture: Mixture) -> Sublayer:
    """Return an MLP that is a mixture in layers with a router, and a gated MLP in the others."""

    def run(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        sparse = mixture.gate in modules
        return mixture(context, modules, x) if sparse else mlp.gated(context, modules, x)

    return run
