"""What the code of a step shares: the tape, the plan's sizes, and the modules by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.repetition import repetition
from calculator.engine.tape import Tape, Tensor
from calculator.layers import masks
from calculator.layers.bound_module import BoundModule, Parameters
from calculator.layers.cache import Cache

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.layer_kind import AttentionType, LayerKind
    from calculator.architecture.model import Layer
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.method_hooks import Prepared


#: The end of a name of what belongs to layers that are not run.
NOT_RUN = "of layers not run"


class Context:
    """One run of the step; `tells_first` allows that its first layer is told and not run (see `first_layer`)."""

    __slots__ = (
        "attention",
        "attention_dropout",
        "attn_weights",
        "batch",
        "cache",
        "config",
        "dtype",
        "during_forward",
        "during_layers",
        "first",
        "forward",
        "kept",
        "kernels",
        "length",
        "mask",
        "masks",
        "method",
        "model",
        "others",
        "parameters",
        "past",
        "position",
        "prepared",
        "recorded",
        "repetition",
        "returned",
        "tape",
        "tells_first",
        "training",
        "waiting",
        "windowed",
    )

    def __init__(self, prepared: Prepared, forward: DecoderForward, *, trains: bool = True) -> None:
        model, method, training = prepared.model, prepared.method, prepared.training
        self.tape = Tape(trains=trains)
        self.prepared = prepared
        self.kernels = prepared.kernels
        self.model = model
        self.config = model.config
        self.forward = forward
        self.method = method
        self.training = training
        self.batch = named(training.micro_batch_size, "B")
        self.length = named(training.sequence_length, "S")
        self.parameters = Parameters(self.tape, model.tied, accumulating=training.gradient_accumulation_steps > 1)
        self.dtype: DType = method.hidden_dtype(training)
        self.attention = self.forward.sdpa if training.attention == "sdpa" else training.attention
        told = (model.config.get(name) for name in ("attention_dropout", "attn_pdrop"))
        self.attention_dropout = float(next(filter(None, told), 0.0))
        self.attn_weights: Tensor | None = None
        self.returned: Tensor | None = None
        self.cache: Cache | None = None
        self.mask: Tensor | None = None
        self.masks: dict[AttentionType, Tensor | None] = {}
        self.past = 0
        self.windowed = False
        self.during_forward: list[Tensor] = []
        self.during_layers: list[Tensor] = []
        self.others: list[Tensor] = []
        self.position: tuple[Tensor, ...] = ()
        self.recorded: list[Tensor] | None = [] if model.config.get("output_router_logits") else None
        self.waiting: list[Tensor] = []
        self.repetition = repetition(layer_kinds(self))
        self.kept: list[Tensor] = []
        self.first: SkippedLayer | None = None
        self.tells_first = False

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers."""
        return self.model.decoder.layers

    def bind(self, module: Module, prefix: str = "") -> BoundModule:
        """A module with its parameters on this tape."""
        path = f"{prefix}{module.name}"
        return BoundModule(self.parameters, path, module, self.prepared.module_spec(path, module), self.method.forward)

    def outer(self, name: str) -> BoundModule:
        """A module outside the layers, by its name."""
        return self.bind(self.model.outer[name])

    def has(self, name: str) -> bool:
        """Whether there is such a module outside the layers."""
        return name in self.model.outer

    def release(self) -> None:
        """Drop what the decoder's own code holds while its layers run."""
        self.position, self.mask, self.masks, self.during_layers, self.returned = (), None, {}, [], None
        self.others = []

    def left(self, position: tuple[Tensor, ...], mask: Tensor | None) -> None:
        """Leave a layer: its code drops the attention's weights, unless the layer returns them to the decoder's."""
        self.position, self.mask = position, mask
        returned = self.forward.returns_weights and bool(self.masks)
        self.returned, self.attn_weights = (self.attn_weights if returned else None), None

    def layer(self, layer: Layer, prefix: str) -> LayerModules:
        """A layer's modules by their names within the layer."""
        return LayerModules({module.name: self.bind(module, prefix) for module in layer.modules}, prefix, layer.kind)

    def cached(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values through the cache, where there is one."""
        return (key, value) if self.cache is None else self.cache.update(key, value, windowed=self.windowed)

    def fill_cache(self, layers: list[list[Tensor]], length: Dim) -> None:
        """A prefix in every layer's cache: copies of the given keys and values, for the layers that are run.

        Those of layers that are not run go where the layer begins that stands for them: the last sees no other's.
        """
        self.past = length
        component = self.cache.component if self.cache is not None else "activations"
        cut = self.method.cut_to_windows(self.model)
        pairs = [[ops.cat((t,), t.shape, "prefix, cached") for t in pair] for pair in layers]
        windows = masks.windows(self) if cut else None
        self.cache = Cache(pairs, windowed=cut, given=windows, component=component)
        if cut:
            self._cut(self.cache)
        more, like = len(self.model.decoder.layers) - len(layers), layers[0][0]
        self.others = [self.tape.new(like.shape, like.dtype, f"prefix, cached, {NOT_RUN}") for _ in range(2 * more)]

    def _cut(self, cache: Cache) -> None:
        """Leave of a prefix what layers with a window keep: slices told from the end, even of the whole.

        Source: transformers.cache_utils.DynamicSlidingWindowLayer.update.
        """
        length = masks.seen(self, "sliding_attention")
        for number, pair in zip(self.repetition.numbers, cache.before, strict=True):
            if self.layers[number].kind.attention == "sliding_attention":
                pair[:] = [t and ops.slice_from_end(t, (*t.shape[:2], length, t.shape[3])) for t in pair]

    def record(self, router_logits: Tensor) -> None:
        """Keep a router's logits to the end of the forward pass, where the config asks for them."""
        if self.recorded is not None:
            self.recorded.append(router_logits)

    def lengthen(self, tokens: Dim) -> None:
        """Virtual tokens in front of the sequence."""
        self.length = tokens + self.length

    def input_requiring_grad(self, embeddings: Tensor) -> Tensor:
        """Embeddings that get a gradient though nothing before them is trained (enable_input_require_grads)."""
        leaf = AccumulateGrad(self.tape, "input embeddings", "activations")
        leaf.context = embeddings
        return Tensor(self.tape, embeddings.storage, embeddings.shape, embeddings.dtype, leaf)

    def scoped(self, scope: str) -> None:
        """Name what is allocated from here on."""
        self.tape.scope = scope


class LayerModules:
    """The bound modules of one layer."""

    __slots__ = ("kind", "modules", "prefix")

    def __init__(self, modules: dict[str, BoundModule], prefix: str, kind: LayerKind) -> None:
        self.modules = modules
        self.prefix = prefix
        self.kind = kind

    def __getitem__(self, name: str) -> BoundModule:
        return self.modules[name]

    def __contains__(self, name: Any) -> bool:
        return name in self.modules


def layer_kinds(context: Context) -> list[int]:
    """For each layer a number, the same where the memory is: layers differ by their modules or by what is masked.

    So does the first, where its attention's weights are returned and may not be saved, or its input is of another dtype
    than its output: two different halves under autocast.
    """
    told_apart = masks.sliding_differs(context)
    numbers: dict[Layer, int] = {}
    known: list[tuple[LayerKind, tuple[Module, ...]]] = []
    for layer, _times in context.model.decoder.distinct:
        kind = layer.kind if told_apart else replace(layer.kind, attention="full_attention")
        if (kind, layer.modules) not in known:
            known.append((kind, layer.modules))
        numbers[layer] = known.index((kind, layer.modules))
    told = [*map(numbers.__getitem__, context.layers)]
    lowered = context.training.autocast or context.dtype
    apart = context.forward.returns_weights or ops.result_type(context.dtype, lowered) != context.dtype
    return [-1, *told[1:]] if apart else told
