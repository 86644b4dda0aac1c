"""Prefix tuning (Li & Liang 2021): learned keys and values in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine.module_calls import leave
from calculator.inputs.settings import setting
from calculator.layers.masks import is_recurrent
from calculator.layers.prefix_cache import fill_cache
from calculator.methods.prefix import decoder_cache
from calculator.methods.prefix.facts import FACTS
from calculator.methods.virtual_tokens import heads
from calculator.methods.virtual_tokens.attention_mask import lengthen_mask
from calculator.methods.virtual_tokens.encoder import ENCODER, called, sequential
from calculator.methods.virtual_tokens.method import VirtualTokens
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix(VirtualTokens):
    """Prefix tuning: 2 · num_virtual_tokens · (num_key_value_heads · head_dim) · num_hidden_layers parameters."""

    name = "prefix"
    facts = FACTS

    num_virtual_tokens: int = setting(
        20,
        label="Virtual tokens",
        help="Learned positions in front of each layer's keys.",
        minimum=1,
        maximum=1_000_000,
    )
    prefix_projection: bool = setting(
        False, label="Prefix projection", help="Train an MLP that produces the prefix (section 4.3 of the paper)."
    )

    def check(self, model: Model, training: Training) -> None:
        """Refuse checkpointing, which disables the cache that contains PEFT's prefix (PeftModel.add_adapter)."""
        _refuse_classifiers(model)
        heads.check(model)
        _fits(model)
        if model.encoder_layers:
            decoder_cache.check(model)
        if training.passes_mask and model.adds_router_loss:
            message = "the routers' loss fails with a mask longer than the input: use no padding, or another method"
            raise refusal("model.config.output_router_logits", message, True)
        if training.gradient_checkpointing:
            message = "PEFT refuses prefix tuning with gradient checkpointing: switch it off, or use another method"
            raise refusal("training.gradient_checkpointing", message, training.gradient_checkpointing)

    def _tensors(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Return the encoder's parameters (peft.tuners.prefix_tuning.PrefixEncoder)."""
        p, width = named(self.num_virtual_tokens, "num_virtual_tokens"), _width(model)
        out = len(model.decoder.layers) * 2 * width
        if not self.prefix_projection:
            return {"embedding.weight": (p, out)}
        return {
            "embedding.weight": (p, width),
            "transform.0.weight": (width, width),
            "transform.0.bias": (width,),
            "transform.2.weight": (out, width),
            "transform.2.bias": (out,),
        }

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return the encoder's parameters, in float32 whatever `adapter_dtype` is."""
        return tuple(
            ResidentTensor(
                name=f"{ENCODER}.{name}",
                shape=shape,
                dtype="float32",
                component="adapter_weights",
                parameters=elements(shape),
                trained=True,
                base=False,
            )
            for name, shape in self._tensors(model).items()
        )

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:  # noqa: ARG002
        """Return the bytes of the encoder's keys and values (PeftModel.get_prompt_embedding_to_save)."""
        last = "transform.2.weight" if self.prefix_projection else "embedding.weight"
        encoder = next(tensor for tensor in state if tensor.name == f"{ENCODER}.{last}")
        out = encoder.shape[0 if self.prefix_projection else 1]
        return self.num_virtual_tokens * int(out) * ITEMSIZE[encoder.dtype]

    def cuts_prefix_to_windows(self, model: Model) -> bool:
        """Return whether PEFT creates the cache from the model's config (PeftModel.get_prompt).

        It does in some families.
        """
        return model.model_type in ("gemma2", "gemma3_text")

    def before_forward(self, context: Context) -> None:
        """Fill the cache with every layer's keys and values (peft.PeftModel.get_prompt)."""
        p = named(self.num_virtual_tokens, "num_virtual_tokens")
        context.set_scope("prompt_encoder: ")
        if not context.model.encoder_layers:
            lengthen_mask(context, p)
        encoded = ops.cast(self.encoded(context, p), context.training.dtype, "prefix in the model's dtype")
        count = len(context.model.decoder.layers)
        heads = encoded.shape[-1] // (2 * count * _head_dim(context.model))
        layer = (2, context.batch, heads, p, _head_dim(context.model))
        if context.model.encoder_layers:
            encoded = ops.cat((encoded, encoded), (*encoded.shape[:2], 2 * encoded.shape[2]), "prefix, twice")
            decoder_cache.fill(context, encoded, count, layer, p)
            return
        chunks = ops.split(ops.view(encoded, (count, *layer)), [layer] * len(context.repetition.numbers))
        fill_cache(context, [ops.split(chunk, [layer[1:], layer[1:]], stacks=True) for chunk in chunks], p)

    def encoded(self, context: Context, p: Dim) -> Tensor:
        """Return the encoder's output: (batch, num_virtual_tokens, num_hidden_layers · 2 · width) in float32."""
        dtype = context.prepared.cast_added_to or "float32"
        weights = {
            name: context.parameters.new(f"{ENCODER}.{name}", shape, dtype, trained=True)
            for name, shape in self._tensors(context.model).items()
        }
        # For an encoder-decoder, the indices for both stacks are moved to the GPU, and the first half is used.
        numbers = 2 * p if context.model.encoder_layers else p
        indices = ops.narrow(context.tape.new((context.batch, numbers), "int64", "indices"), (context.batch, p))
        table = weights["embedding.weight"]
        if context.method.in_inference_mode:
            return context.tape.new((context.batch, p, table.shape[1]), table.dtype, "repeated")
        x = called(indices, table, "embedding")
        if not self.prefix_projection:
            return leave(ENCODER, x)
        tanh, rows = partial(ops.unary, name="transform, tanh", saves="result"), ("transform, hidden", "transform")
        return leave(ENCODER, sequential("transform", weights, x, rows, tanh))


#: Families whose config.json spells num_key_value_heads in a way that PEFT does not read.
_UNNAMED_GROUPS = ("falcon",)


def _refuse_classifiers(model: Model) -> None:
    """Refuse classifiers, to which PEFT cannot pass a prefix.

    Source: peft 0.21, peft_model.py, PeftModelForSequenceClassification._prefix_tuning_forward, which looks for an
    argument `past_key_values`. transformers 5.24 calls it `cache`.
    """
    if model.task.trains_head:
        message = (
            f"PEFT finds no argument past_key_values in the model for {model.task.name}, and raises an error: use"
            " prompt or lora"
        )
        raise refusal("method.name", message, "prefix")


def _fits(model: Model) -> None:
    """Refuse a family that does not cache one head of keys and values for each head of PEFT's prefix.

    Source: peft 0.21, peft_model.py, get_prompt. Source: transformers' modeling_falcon.py (multi-query keys are cached
    once), modeling_deepseek_v3.py (the cache is compressed), cache_utils.py, Cache.get_conv_state.
    """
    config = model.config
    if is_recurrent(model):
        message = (
            f"PEFT's prefix is a cache of keys and values, but layers of {model.model_type} without attention cache"
            " another state, and transformers raises an error: use another method"
        )
        raise refusal("method.name", message, "prefix")
    if "global_head_dim" in config:
        message = (
            f"PEFT cuts its prefix to the heads of each layer of {model.model_type} and leaves out layers with wider"
            " ones, which is not modeled: use another method"
        )
        raise refusal("method.name", message, "prefix")
    single = model.model_type in _UNNAMED_GROUPS and not config["new_decoder_architecture"] and config["multi_query"]
    if (single and config["num_attention_heads"] > 1) or config.get("kv_lora_rank"):
        message = (
            f"{model.model_type} caches one head, but PEFT's prefix has as many as the queries: use another method"
        )
        raise refusal("method.name", message, "prefix")


def _width(model: Model) -> int:
    """Return the width of one layer's keys, or values (peft.utils.other._prepare_prompt_learning_config)."""
    config = model.config
    if model.model_type in _UNNAMED_GROUPS:
        return int(config["hidden_size"])
    return int(config["num_key_value_heads"]) * _head_dim(model)


def _head_dim(model: Model) -> int:
    config = model.config
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
