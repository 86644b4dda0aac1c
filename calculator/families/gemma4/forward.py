"""Gemma 4's text model: heads of two sizes, shared keys and values, per-layer inputs, and experts next to an MLP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing
from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave, leave_with
from calculator.families.gemma.forward import capped
from calculator.families.gemma4.attention import attend
from calculator.families.gemma4.norms import called_unscaled, rms_norm
from calculator.layers import mlp
from calculator.layers.decoder_forward import DecoderForward, embed, final, rotary_tables_per_type, tables_of_type
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.experts import experts

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.families.gemma4.norms import Norm
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules
    from calculator.layers.mlp import Sublayer

#: The largest head size of FlashAttention 2.
#: Source: flash-attention, csrc/flash_attn/flash_api.cpp, mha_fwd.
_FLASH_HEAD = 256


class LayerInputs:
    """The tensors that the decoder passes to its layers: inputs of each layer, and keys and values by attention type.

    `ids` are those whose rows are the layers' inputs, until they are looked up.
    """

    __slots__ = ("ids", "keys_and_values", "per_layer_inputs")

    def __init__(self, per_layer_inputs: Tensor | None, ids: Tensor | None = None) -> None:
        self.per_layer_inputs, self.ids = per_layer_inputs, ids
        self.keys_and_values: dict[MixerType, tuple[Tensor, Tensor]] = {}


def rows_of_layers(context: Context, ids: Tensor, path: str = "model") -> Tensor | None:
    """Look up the embeddings of the per-layer inputs, if the model has any (get_per_layer_inputs)."""
    if not context.config["hidden_size_per_layer_input"]:
        return None
    name = f"{path}.embed_tokens_per_layer"
    begin(context.tape, name)
    return leave(name, embed(context, ids, name, scaled=True))


def _embeddings(context: Context, ids: Tensor) -> Tensor:
    """Look up word embeddings, and the embeddings of the per-layer inputs."""
    inputs_embeds = embed(context, ids, scaled=True)
    context.passed = LayerInputs(None, ids)
    return inputs_embeds


def _project_inputs(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Look up the rows of the layers' own inputs, then project word embeddings."""
    passed = context.passed
    passed.per_layer_inputs, passed.ids = rows_of_layers(context, passed.ids), None
    return project_inputs(context, inputs_embeds)


def project_inputs(context: Context, inputs_embeds: Tensor, path: str = "model") -> Tensor:
    """Project word embeddings to per-layer inputs, and add their own embeddings (project_per_layer_inputs)."""
    rows = context.passed.per_layer_inputs
    if rows is None:
        return inputs_embeds
    projected = context.outer(f"{path}.per_layer_model_projection")(inputs_embeds)
    context.set_scope(f"{path}: ")
    count, width = context.config["num_hidden_layers"], context.config["hidden_size_per_layer_input"]
    shape = (*inputs_embeds.shape[:2], count, width)
    projected = ops.view(ops.scale(projected, "inputs of the layers, scaled"), shape)
    projected = rms_norm(context.outer(f"{path}.per_layer_projection_norm"), projected)
    context.set_scope(f"{path}: ")
    summed = ops.add(projected, ops.view(rows, shape), "inputs of the layers, summed")
    context.passed.per_layer_inputs = ops.scale(summed, "inputs of the layers")
    return inputs_embeds


def _last_position(context: Context, hidden_states: Tensor) -> Tensor:
    """Return a view of the last position, of hidden states, masks, tables and per-layer inputs.

    FlashAttention's masks can't be sliced. Source: Gemma4TextModel._maybe_slice_kv_shared_inputs.
    """
    if hidden_states.shape[1] == 1 or context.attention == "flash_attention_2":
        return hidden_states
    inputs = context.passed.per_layer_inputs
    if inputs is not None:
        context.passed.per_layer_inputs = ops.narrow(inputs, (inputs.shape[0], 1, *inputs.shape[2:]))
    *tables, position_ids = context.position_tables
    context.position_tables = (*(ops.narrow(x, (x.shape[0], 1, x.shape[2])) for x in tables), position_ids)
    context.masks = {
        kind: None if mask is None else ops.narrow(mask, (*mask.shape[:-2], 1, mask.shape[-1]))
        for kind, mask in context.masks.items()
    }
    return ops.narrow(hidden_states, (hidden_states.shape[0], 1, hidden_states.shape[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma4Layer:
    """Gemma4TextDecoderLayer, which receives its per-layer input from the decoder."""

    #: The norms around attention and the MLP, and the norms of queries and keys.
    norm: Norm = rms_norm
    #: The MLP of a layer without experts.
    mlp: Sublayer = mlp.gated

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run the module: (batch, sequence, hidden_size) to the same shape."""
        own_input, norm = _own_input(context), self.norm
        residual = hidden_states
        hidden_states = norm(modules["input_layernorm"], hidden_states)
        hidden_states = run_sublayer(context, modules, "attention", partial(attend, norm=norm), hidden_states)
        hidden_states = norm(modules["post_attention_layernorm"], hidden_states)
        hidden_states = ops.add(residual, hidden_states, "residual after attention")
        residual = hidden_states
        hidden_states = norm(modules["pre_feedforward_layernorm"], hidden_states)
        feed_forward = mlp.gated if "experts" in modules else self.mlp
        hidden_states = run_sublayer(context, modules, "mlp", feed_forward, hidden_states)
        experts_locals: tuple[Tensor, ...] = ()
        if "experts" in modules:
            hidden_states, experts_locals = _with_experts(context, modules, residual, hidden_states)
        hidden_states = norm(modules["post_feedforward_layernorm"], hidden_states)
        hidden_states = ops.add(residual, hidden_states, "residual after MLP")
        if own_input is not None:
            residual = hidden_states
            hidden_states = _with_own_input(context, modules, hidden_states, own_input)
            hidden_states = ops.add(residual, hidden_states, "residual after the layer's own input")
        hidden_states = in_place.mul_by_buffer_(hidden_states)
        del experts_locals
        return hidden_states


def _own_input(context: Context) -> Tensor | None:
    whole = context.passed.per_layer_inputs
    return None if whole is None else ops.slice_from_end(whole, (*whole.shape[:2], whole.shape[3]))


def _with_own_input(context: Context, modules: LayerModules, hidden_states: Tensor, own_input: Tensor) -> Tensor:
    """Gate the layer's own input by its hidden states."""
    gate = modules["per_layer_input_gate"](hidden_states)
    context.set_scope(modules.prefix)
    gate = mlp.configured(context, modules, gate)
    gated = ops.mul(gate, own_input, "own input, gated")
    del gate
    projected = modules["per_layer_projection"](gated)
    del gated
    return rms_norm(modules["post_per_layer_input_norm"], projected)


def _with_experts(
    context: Context, modules: LayerModules, residual: Tensor, mlp_output: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Add the experts' output to the MLP's output, each after a norm. Both read the same hidden states.

    Returns the sum, and the tensors that the layer's local variables keep alive until it returns.
    """
    normed_mlp_output = rms_norm(modules["post_feedforward_layernorm_1"], mlp_output)
    flat = ops.view(residual, (residual.shape[0] * residual.shape[1], residual.shape[2]))
    router = f"{modules.prefix}router"
    chosen = _router(context, modules, enter(router, flat))
    context.attn_weights, weights, indices = leave_with(router, *chosen)
    del chosen
    routed = rms_norm(modules["pre_feedforward_layernorm_2"], flat)
    routed = experts(context, modules["experts"], routed, indices, weights)
    routed = ops.view(routed, residual.shape)
    routed = rms_norm(modules["post_feedforward_layernorm_2"], routed)
    return ops.add(normed_mlp_output, routed, "MLP + experts"), (normed_mlp_output, flat, weights, indices, routed)


def _router(context: Context, modules: LayerModules, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run Gemma4TextRouter. Return the probabilities, and the weights and indices of the chosen experts."""
    parameters = modules["router"].own
    hidden_states = called_unscaled(context, f"{modules.prefix}router.norm", flat)
    context.set_scope(f"{modules.prefix}router: ")
    hidden_states = ops.scale(ops.mul(hidden_states, parameters["scale"], "input · scale"), "input, scaled")
    scores = modules["router.proj"](hidden_states)
    context.set_scope(f"{modules.prefix}router: ")
    probabilities = ops.softmax(scores, "float32")
    weights, indices = indexing.top_k(probabilities, context.config["num_experts_per_tok"], "weights")
    weights = in_place.normalize_(weights, "weights")
    expert_scales = indexing.index(parameters["per_expert_scale"], indices, "scales of the chosen experts")
    return probabilities, ops.mul(weights, expert_scales, "weights, scaled"), indices


def _refused(config: Config) -> str | None:
    head = max(config["head_dim"], config["global_head_dim"])
    return f"its heads are at most {_FLASH_HEAD}, not {head}: use sdpa" if head > _FLASH_HEAD else None


GEMMA4_TEXT = DecoderForward(
    embeddings=_embeddings,
    before_layers=_project_inputs,
    tables=rotary_tables_per_type,
    tables_for=tables_of_type,
    layer=Gemma4Layer(),
    final_norm=final(rms_norm),
    logits=capped,
    masks=("full_attention", "sliding_attention"),
    couples_layers=lambda _config: True,
    last_position=_last_position,
    refuses_flash=_refused,
)
