"""A cache of keys and values and of recurrent states, layer by layer (transformers.cache_utils.DynamicCache).

An entry is what one update of a layer leaves: a pair of keys and values, or a state of a convolution or a recurrence.
The size of a state does not depend on the number of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from calculator.engine import operations as ops
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.model import Layer
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.tape import Tensor

#: Model types that return the cache of a prefix with use_cache only. Others always return it. Source: transformers
#: 5.24, the end of each model's forward.
RETURNED_IF_USED = frozenset(
    {
        "exaone4", "gemma", "llama4", "llama4_text", "ministral", "ministral3", "mistral", "mistral3", "nemotron_h",
        "phi3", "qwen2", "qwen2_moe", "qwen3", "smollm3", "starcoder2",
    }
)  # fmt: skip


def _copy(x: Tensor) -> Node | None:
    """Return the node of `zeros.copy_(x)`. It refers to the graph of x, but no gradient flows through it."""
    return Node(x.tape, _no_gradient, (x.edge,)) if x.edge else None


def _no_gradient(_: Node, grad: Tensor) -> tuple[None]:  # noqa: ARG001  no loss depends on a cache
    return (None,)


class Cache:
    """The keys and values of each layer, in the order of the layers."""

    __slots__ = ("before", "component", "encoder_pairs", "given", "kept", "read", "windowed", "windows")

    def __init__(
        self,
        before: Sequence[Sequence[Tensor]] = (),
        *,
        windowed: bool,
        given: Sequence[Tensor] | None = None,
        component: ComponentName = "activations",
        encoder_pairs: Sequence[tuple[Tensor, ...]] = (),
    ) -> None:
        #: The entries of earlier passes for updates that have not run yet. An update may have none.
        self.before: list[list[Tensor | None]] = [list(pair) or [None, None] for pair in before]
        #: Whether layers with a window cache no more than the window. The cache that PEFT creates for a prefix caches
        #: all.
        self.windowed = windowed
        self.given = given is not None
        #: The tensor with the window's size, for each layer that has a window. Layers create it as they run if it is
        #: not given.
        self.windows = list(given or ())
        self.component = component
        #: The keys and values of the encoder's output for each layer of the decoder, from an earlier pass. `read` is
        #: the number of layers that have read theirs.
        self.encoder_pairs = encoder_pairs
        self.read = 0
        #: The entries of updates that have run.
        self.kept: list[tuple[Tensor, ...]] = []

    def update(self, key: Tensor, value: Tensor, *, windowed: bool, one_dtype: bool = False) -> tuple[Tensor, Tensor]:
        """Append keys and values to those of the next layer. Return copies of all of them, which the cache keeps.

        A layer with a window drops its old keys only after its values are copied, and keeps a view of the window. The
        copies keep their full size. `one_dtype`: whether values are cached in the keys' dtype.

        Source: DynamicLayer.update, DynamicSlidingWindowLayer.update.
        """
        before = self.before.pop(0) if self.before else [None, None]
        windowed = windowed and self.windowed
        if windowed and not self.given:
            self.windows.append(key.tape.new((), "int64", "window"))
        keys = self._concatenate(before[0], key, "key, cached")
        if not windowed:
            before[0] = None
        if one_dtype and before[1] is None and value.dtype != key.dtype:
            values = self._promote(value, key.dtype)
        else:
            values = self._concatenate(before[1], value, "value, cached")
        self.kept.append((keys, values))
        return keys, values

    def state(self) -> Tensor | None:
        """Return the state that the next update changes, or None in the first pass."""
        return self.before[0][0] if self.before else None

    def update_state(self) -> None:
        """Change the next state in place. Nothing is allocated."""
        (state,) = self.before.pop(0)
        assert state is not None
        self.kept.append((state,))

    def update_conv_state(self, x: Tensor, width: int) -> Tensor:
        """Copy the last positions of a convolution's input, (batch, channels, positions), and return all of it.

        An input shorter than the convolution's width is padded. Source: LinearAttentionLayer.update_conv_state.
        """
        outer, x.tape.component = x.tape.component, self.component
        state = x.tape.new((*x.shape[:2], width), x.dtype, "input of the convolution, cached", _copy(x))
        x.tape.component = outer
        if x.shape[2] < width:
            x = ops.pad(x, state.shape, "input of the convolution, padded")
        self.kept.append((state,))
        return x

    def update_recurrent_state(self, state: Tensor) -> None:
        """Copy the last state of a layer. Source: LinearAttentionLayer.update_recurrent_state."""
        if self.before:
            self.update_state()
            return
        outer, state.tape.component = state.tape.component, self.component
        self.kept.append((state.tape.new(state.shape, state.dtype, "state, cached", _copy(state)),))
        state.tape.component = outer

    def encoder_pair(self) -> tuple[Tensor, ...] | None:
        """Return the next layer's keys and values of the encoder's output, or None in the pass that computes them."""
        if not self.encoder_pairs:
            return None
        self.read += 1
        return self.encoder_pairs[self.read - 1]

    def refer(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of a first pass without copies. Append those of later passes."""
        if self.before:
            return self.update(key, value, windowed=False)
        self.kept.append((key, value))
        return key, value

    def _promote(self, value: Tensor, dtype: DType) -> Tensor:
        """Concatenate values with an empty tensor of the keys' dtype."""
        outer, value.tape.component = value.tape.component, self.component
        out = ops.cast(value, dtype, "value, cached")
        value.tape.component = outer
        return out

    def _concatenate(self, before: Tensor | None, x: Tensor, name: str) -> Tensor:
        outer, x.tape.component = x.tape.component, self.component
        shape = x.shape if before is None else (*x.shape[:2], x.shape[2] + before.shape[2], x.shape[3])
        out = ops.cat((before, x) if before is not None else (x,), shape, name)
        x.tape.component = outer
        return out


class UnfilledCache(Cache):
    """A cache that is passed to a model whose checkpointed layers leave it empty.

    Source: transformers 4.57.6, modeling_layers.py, GradientCheckpointingLayer.__call__.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(windowed=False, given=(), component="kv_cache")

    def update(self, key: Tensor, value: Tensor, *, windowed: bool, one_dtype: bool = False) -> tuple[Tensor, Tensor]:  # noqa: ARG002  a hook's signature
        """Return the keys and values of the pass alone."""
        return key, value

    def refer(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the pass alone."""
        return key, value


def entries_by_layer(layers: Iterable[Layer], entries: Sequence[tuple[Tensor, ...]]) -> list[list[tuple[Tensor, ...]]]:
    """Return the entries of each layer."""
    by_layer, start = [], 0
    for layer in layers:
        end = start + _updates(layer.kind)
        by_layer.append([*entries[start:end]])
        start = end
    return by_layer


def pairs_by_layer(
    layers: Iterable[Layer], entries: Sequence[tuple[Tensor, ...]]
) -> Iterator[tuple[Layer, tuple[Tensor, Tensor]]]:
    """Yield each layer that caches keys and values, with its keys and values."""
    layers = [*layers]
    for layer, layer_entries in zip(layers, entries_by_layer(layers, entries), strict=True):
        yield from ((layer, (entry[0], entry[1])) for entry in layer_entries if len(entry) > 1)


def _updates(kind: LayerKind) -> int:
    """Return the number of entries that a layer has in the cache."""
    if kind.shares == "reuse":
        return 0
    match kind.attention:
        case "mlp":
            return 0
        case "full_attention" | "sliding_attention" | "conv":
            return 1
        case "linear_attention":
            return 2
        case "hybrid":
            return 3
        case _:
            assert_never(kind.attention)
