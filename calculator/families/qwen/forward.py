"""Qwen 2 and 3, dense and with experts: Llama's block, in Qwen 3 with normed queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import mlp, norms, routers
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.experts import experts
from calculator.layers.mixture import Mixture, in_sparse_layers
from calculator.layers.self_attention import SelfAttention, norm_each_projection

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSharedExpert(Mixture):
    """A mixture with a gated shared expert for every token, which runs first (Qwen 2)."""

    shared: str = "mlp.shared_expert"

    def mixed(self, context: Context, modules: LayerModules, x: Tensor) -> Tensor:
        """Run the shared expert, the router and the experts. The shape stays (batch, sequence, hidden_size)."""
        hidden_states = self.flattened(context, x)
        shared_expert_output = mlp.called(context, modules, hidden_states, self.shared)
        weights, indices, *_alive = self.chosen(context, modules, hidden_states)
        expert_output = experts(context, modules[self.experts], hidden_states, indices, weights, self.activate)
        gate = modules[f"{self.shared}_gate"](hidden_states)
        context.set_scope(f"{modules.prefix}mlp: ")
        gate = ops.unary(gate, "shared expert's gate", saves="result")
        shared_expert_output = ops.mul(gate, shared_expert_output, "shared expert, gated")
        expert_output = ops.add(expert_output, shared_expert_output, "experts + shared expert")
        return ops.view(expert_output, x.shape)


_QWEN3 = SelfAttention(project=norm_each_projection(norms.rms_norm))

QWEN2 = DecoderForward(layer=SequentialLayer(), masks=("full_attention",))

QWEN3 = DecoderForward(layer=SequentialLayer(attention=_QWEN3), masks=("full_attention",))

QWEN2_MOE = DecoderForward(
    layer=SequentialLayer(mlp=in_sparse_layers(WithSharedExpert(router=routers.softmax_and_cast_back, is_leaf=True))),
    masks=("full_attention", "sliding_attention"),
)


def _qwen3_moe(*, is_leaf: bool) -> DecoderForward:
    mixture = Mixture(router=routers.softmax_and_cast_back, is_leaf=is_leaf)
    return DecoderForward(layer=SequentialLayer(attention=_QWEN3, mlp=in_sparse_layers(mixture)))


QWEN3_MOE = _qwen3_moe(is_leaf=True)

#: The text model of Qwen 3 VL, whose mixture DeepSpeed's stage 3 treats as modules like all others.
QWEN3_MOE_OF_IMAGES = _qwen3_moe(is_leaf=False)
