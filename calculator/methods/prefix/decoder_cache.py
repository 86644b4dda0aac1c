"""The prefix of an encoder-decoder: keys and values for the decoder's self-attention.

Source: peft/peft_model.py, PeftModel.get_prompt (num_transformer_submodules of 2); transformers/cache_utils.py,
EncoderDecoderCache and DynamicCache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.layers.cache import Cache

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def check(model: Model) -> None:
    """Refuse a decoder whose layers or heads differ from the encoder's, which PEFT reads from the config.

    Raises:
        PlanError: naming both numbers.
    """
    config = model.config
    encoder, decoder = (len(stack.layers) for stack in model.stacks)
    if decoder > encoder:
        message = (
            f"PEFT's prefix is for {encoder} layers, as the encoder has; the decoder has {decoder}, and transformers"
            " finds no cache for the last: use lora or prompt"
        )
        raise refusal("method.name", message, "prefix")
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    decoder_heads, width = config.get("decoder_attention_heads", heads), config["head_dim"]
    if decoder_heads != heads or width * heads != hidden:
        message = (
            f"PEFT's prefix has {heads} heads, {hidden} wide together; the decoder has {decoder_heads} heads of"
            f" {width}, and the attention fails: use lora or prompt"
        )
        raise refusal("method.name", message, "prefix")


def fill(context: Context, doubled: Tensor, count: int, layer: Shape, p: Dim) -> None:
    """Create the decoder's cache of the prefix, which PEFT concatenates with itself for both attentions of each layer.

    `layer` is the shape of one layer's keys and values. Those for cross-attention are copied too, then dropped.
    """
    shape = (4, *layer[1:])
    chunks = ops.split(ops.view(doubled, (count, *shape)), [shape] * count)
    pairs = [_copied(chunk, layer) for chunk in chunks]
    crossing = [_copied(chunk, layer) for chunk in chunks]
    del crossing
    # Each layer of the decoder reads the cache for its self-attention, then for its cross-attention.
    before = [pair for keys_and_values in pairs for pair in (keys_and_values, [])]
    context.decoder_cache = Cache(before, windowed=False)
    context.decoder_past = p


def _copied(chunk: Tensor, layer: Shape) -> list[Tensor]:
    """Copy the keys and values of a layer."""
    parts = ops.split(ops.narrow(chunk, layer), [layer[1:], layer[1:]], stacks=True)
    return [ops.cat((part,), part.shape, "prefix, cached") for part in parts]
