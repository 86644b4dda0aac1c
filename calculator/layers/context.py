"""The state of one forward pass: the tape, the sizes, and the modules by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.tape import LeafTensor, Tape, Tensor
from calculator.layers import masks
from calculator.layers.bound_module import BoundModule, Parameters
from calculator.layers.cache import Cache
from calculator.layers.sharding_hooks import NO_HOOKS, Hooks

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.layer_kind import LayerKind, MixerType
    from calculator.architecture.model import Layer
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.layer_loop import LayerLoop
    from calculator.engine.repetition import Repetition
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.method_hooks import Prepared
    from calculator.layers.tower import Processed


#: The names in a config of the dropout probability in attention.
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")

#: Marks the name of a tensor that stands for layers that are not interpreted.
NOT_RUN = "of layers not run"


class Context:
    """The state of one step, or of one pass of `generate`. It is passed to every layer."""

    __slots__ = (
        "attends_to_window",
        "attention",
        "attention_dropout",
        "attn_weights",
        "batch",
        "bounds_first_layer",
        "buffer_dtype",
        "cache",
        "caches",
        "caller_tensors",
        "classes",
        "compared",
        "config",
        "decoder_cache",
        "decoder_ids",
        "decoder_locals",
        "decoder_past",
        "dtype",
        "encoder_mask",
        "encoder_states",
        "forward",
        "forward_locals",
        "generates",
        "gives_positions",
        "hooks",
        "image_features",
        "image_outputs",
        "images",
        "is_causal",
        "keeps_last",
        "kernels",
        "labels",
        "layer_loop",
        "length",
        "marks",
        "mask",
        "masks",
        "may_repeat_first_period",
        "may_skip_first_layer",
        "method",
        "model",
        "num_items",
        "older",
        "padding_mask",
        "parameters",
        "passed",
        "passed_labels",
        "passes",
        "past",
        "position_biases",
        "position_tables",
        "prepared",
        "recurrent_mask",
        "repeats_layers",
        "repetition",
        "returned_attn_weights",
        "returned_cache",
        "router_logits",
        "sample_bounds",
        "skipped_layer",
        "skipped_layer_tensors",
        "skipped_router_gradients",
        "tape",
        "texts",
        "training",
        "unrolls",
    )

    attn_weights: Tensor | None
    returned_attn_weights: Tensor | None

    def __init__(
        self,
        prepared: Prepared,
        forward: DecoderForward,
        *,
        hooks: Hooks = NO_HOOKS,
        trains: bool = True,
        tape: Tape | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        """Start a step on a tape of its own, or a pass inside a step on that step's `tape`.

        A pass on a given `tape` has no graph. With the `parameters` of an earlier pass too, it has a graph, and trains
        the same parameters.
        """
        #: The hooks of the sharding in a micro-batch.
        self.hooks = hooks
        #: The dtype of the model's buffers that have none of their own.
        self.buffer_dtype: DType = prepared.given.dtype
        prepared = self.hooks.computed(prepared)
        model, method, training = prepared.model, prepared.method, prepared.training
        self.tape = tape or Tape(trains=trains)
        #: The prefix of this pass's marks between layers.
        self.marks = ""
        self.tape.module_dropout, self.tape.calls_modules = not prepared.disables_dropout, self.hooks.calls_modules
        #: The reference model that runs in place of the trained model. None for the trained model.
        self.compared: str | None = None
        #: Whether every layer's tensors have rows of their own, for a replay. And whether one period stands for the
        #: layers of a pass without a graph inside the step.
        self.unrolls = self.repeats_layers = False
        self.prepared = prepared
        self.kernels = prepared.kernels
        #: The differences of the requested library releases from the default ones.
        self.older = prepared.older
        self.model = model
        self.config = prepared.config(forward.dropout_modules)
        #: The forward pass of the model's family.
        self.forward = forward
        self.method = method
        self.training = training
        rows, tokens = sequences(prepared), named(training.sequence_length, "S")
        self.batch: Dim = named(1, "1") if training.flattened else rows
        #: The number of tokens of this pass, including virtual tokens. It is that of all sequences if they form one
        #: row.
        self.length: Dim = rows * tokens if training.flattened else tokens
        #: The number of tokens in the cache, from earlier passes or a prefix. Whether the caller gives the positions of
        #: every sequence. Whether only the logits of the last position are computed (logits_to_keep=1).
        self.past, self.gives_positions, self.keeps_last = 0, False, False
        self.parameters = parameters or Parameters(
            self.tape,
            model.tied,
            accumulation=self.hooks.accumulation(training),
            keeps_inputs="inputs_of_frozen_4bit_layers" in prepared.older or method.keeps_inputs,
            dtype=self.hooks.param_dtype,
            graph=tape is None,
            shares=model.task.embeds,
        )
        #: The dtype of hidden states.
        self.dtype: DType = prepared.hidden_dtype
        #: The attention implementation that runs.
        self.attention = training.attention
        if training.attention == "sdpa" and "sdpa_without_softcapping" not in prepared.older:
            self.attention = forward.sdpa
        dropouts = (self.config.get(name) for name in DROPOUTS)
        self.attention_dropout = float(next(filter(None, dropouts), 0.0))
        self.cache: Cache | None = None
        #: Whether the running model creates a cache.
        self.caches = False
        #: The masks by attention type, and the mask of the running layer.
        self.masks: dict[MixerType, Tensor | None] = {}
        self.mask: Tensor | None = None
        #: The padding mask, if the running layer is recurrent.
        self.recurrent_mask: Tensor | None = None
        #: Whether the running layer has a sliding window.
        self.attends_to_window = False
        #: The position tensors that the running layer receives. Outside the layers, those of all layers.
        self.position_tables: tuple[Tensor, ...] = ()
        #: The attention weights that the layer's code refers to, and those that the last layer returned to the decoder.
        self.attn_weights = self.returned_attn_weights = None
        #: Local variables that stay alive until the model's forward pass ends.
        self.forward_locals: list[Tensor] = []
        #: Local variables of the decoder that stay alive while its layers run.
        self.decoder_locals: list[Tensor] = []
        #: The logits of each router. None unless the config sets output_router_logits or a trainer requests their loss.
        gives_logits = model.adds_router_loss or model.config.get("output_router_logits")
        self.router_logits: list[Tensor] | None = [] if gives_logits else None
        #: A number for each layer. Layers that allocate the same have equal numbers.
        self.classes = layer_classes(self)
        #: The layers that are interpreted, and how many layers each represents.
        self.repetition = self.hooks.repetition(self.classes)
        #: The loop that folds the layers of a pass in which every layer's tensors have rows of their own.
        self.layer_loop: LayerLoop | None = None
        #: A prefix's keys and values of layers that are not interpreted.
        self.skipped_layer_tensors: list[Tensor] = []
        #: The gradients of router logits of layers that are not interpreted.
        self.skipped_router_gradients: list[Tensor] = []
        #: Whether the first layer may be derived from the second instead of being interpreted. `skipped_layer` is that
        #: layer. Whether the first period represents later ones if it returns hidden states like those it receives.
        #: Whether its backward pass is a bound on that of the first layer.
        self.may_skip_first_layer = self.may_repeat_first_period = self.bounds_first_layer = False
        self.skipped_layer: SkippedLayer | None = None
        #: The passes without a graph inside the step: the prefix of their marks, and the layers that they interpret.
        self.passes: list[tuple[str, Repetition]] = []
        self._before_the_batch()

    def _before_the_batch(self) -> None:
        """Initialize the attributes that a batch or an encoder sets."""
        #: Whether attention is causal. In an encoder-decoder, that of the stack that runs.
        self.is_causal = self.forward.is_causal
        #: The input of a decoder, and the encoder's output and mask that it attends to once it runs.
        self.decoder_ids: Tensor | None = None
        #: Whether `generate` runs the model, which then has no labels.
        self.generates = False
        #: The cache of a prefix that only the decoder has, and the number of its tokens.
        self.decoder_cache: Cache | None = None
        self.decoder_past = 0
        self.encoder_states: Tensor | None = None
        self.encoder_mask: Tensor | None = None
        #: The position biases that the layers of a stack share, by whether they belong to cross-attention.
        self.position_biases: dict[bool, Tensor] = {}
        #: The object that the family's decoder passes to its layers in addition to the hidden states.
        self.passed: Any = None
        #: The padding mask that the model is given, if it is not that of the batch.
        self.padding_mask: Tensor | None = None
        #: The labels of a batch, if they are not the tokens themselves.
        self.labels: list[Tensor] = []
        #: The texts of each example, which are embedded one after the other: their ids and masks.
        self.texts: list[tuple[Tensor, Tensor]] = []
        #: The labels that a method lengthens and the model passes to its layers.
        self.passed_labels: Tensor | None = None
        #: The number of labels in a step, which a trainer passes to the model.
        self.num_items: Tensor | None = None
        #: Where each sample of a flattened batch begins, if the batch includes that.
        self.sample_bounds: Tensor | None = None
        #: The tensors that images add to a batch, the pixels first. The tensors that the loop keeps alive: the batch
        #: and the loss.
        self.images, self.caller_tensors = list[Tensor](), list[Tensor]()
        #: The outputs of the model in addition to the loss and the logits: the cache, and tensors that images add. Each
        #: tensor has the number of images that it is split into.
        self.returned_cache: Cache | None = None
        self.image_outputs: list[tuple[Tensor, int]] = []
        #: The features that the first layers of the decoder add to the hidden states of images, each with the mask of
        #: these states.
        self.image_features: list[tuple[Tensor, Tensor]] = []

    @property
    def image(self) -> Processed:
        """The image of the batch, as the processor passes it to the model."""
        assert self.forward.tower is not None
        assert self.training.images is not None
        return self.forward.tower.process(self.model.config, self.training.images)

    @property
    def image_count(self) -> int:
        """The number of images in the batch."""
        return self.prepared.sequences_per_row * self.training.image_count

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are interpreted."""
        return self.model.layers

    def bind(self, module: Module, prefix: str = "") -> BoundModule:
        """Return a module with its parameters on this tape."""
        path = module.under(prefix.removesuffix(".")) if prefix else module.name
        return BoundModule(self.parameters, path, module, self.prepared.module_spec(path, module), self.method.forward)

    def outer(self, name: str) -> BoundModule:
        """Return the module outside the layers that has the name in a model with a head."""
        return self.bind(self.model.outer[name.removeprefix(self.model.base)])

    def has(self, name: str) -> bool:
        """Return whether a module outside the layers has the name in a model with a head."""
        return name.removeprefix(self.model.base) in self.model.outer

    def layer(self, layer: Layer, prefix: str) -> LayerModules:
        """Return a layer's modules by their names within the layer."""
        return LayerModules({module.name: self.bind(module, prefix) for module in layer.modules}, prefix, layer.kind)

    def position_ids(self, length: int) -> Tensor:
        """Return the position ids, of all sequences if the caller gives them, or of one sequence.

        The position ids of a flattened batch are part of the batch.
        """
        if self.gives_positions or self.training.flattened:
            return Tensor(self.tape, None, (self.batch, length), "int64", None)
        return self.tape.new((1, length), "int64", "position_ids")

    def exit_layer(self, position_tables: tuple[Tensor, ...], given: masks.OfLayer) -> None:
        """Drop the local variables of a layer, except attention weights that it returns to the decoder."""
        self.position_tables, (self.mask, self.recurrent_mask) = position_tables, given
        returns = self.forward.returns_weights and bool(self.masks)
        self.returned_attn_weights, self.attn_weights = (self.attn_weights if returns else None), None

    def release(self) -> None:
        """Drop the local variables of the decoder."""
        self.position_tables, self.mask, self.masks, self.encoder_mask = (), None, {}, None
        self.recurrent_mask = None
        self.position_biases, self.padding_mask, self.passed = {}, None, None
        self.decoder_locals, self.returned_attn_weights, self.skipped_layer_tensors = [], None, []
        self.image_features = []

    def drop_outputs(self) -> None:
        """Drop what the model returned in addition to the loss and the logits."""
        self.returned_cache, self.image_outputs = None, []

    def update_cache(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values to the cache, if there is one. Return all keys and values of the layer."""
        if self.cache is None:
            return key, value
        if "cache_without_copies" in self.older:
            return self.cache.refer(key, value)
        one_dtype = "values_cached_as_keys" in self.older
        return self.cache.update(key, value, windowed=self.attends_to_window, one_dtype=one_dtype)

    def fill_cache(self, layers: list[list[Tensor]], length: Dim) -> None:
        """Copy a prefix's keys and values into the cache, for every layer.

        `layers` are the keys and values of the interpreted layers. Those of the other layers are dropped when the layer
        begins that represents them, because the last layer keeps no other layer's.
        """
        self.past = length
        component = self.cache.component if self.cache is not None else "activations"
        cut = self.method.cut_to_windows(self.model)
        pairs = [[ops.cat((t,), t.shape, "prefix, cached") for t in pair] for pair in layers]
        windows = masks.window_tensors(self) if cut else None
        self.cache = Cache(pairs, windowed=cut, given=windows, component=component)
        if cut:
            self._cut(self.cache)
        skipped, like, name = len(self.layers) - len(layers), layers[0][0], f"prefix, cached, {NOT_RUN}"
        self.skipped_layer_tensors = [self.tape.new(like.shape, like.dtype, name) for _ in range(2 * skipped)]

    def _cut(self, cache: Cache) -> None:
        """Cut a prefix to the window in sliding layers.

        The cut is a slice from the end, even if it is the whole prefix.

        Source: transformers.cache_utils.DynamicSlidingWindowLayer.update.
        """
        length = masks.cached_tokens(self, "sliding_attention")
        for number, pair in zip(self.repetition.numbers, cache.before, strict=True):
            if self.layers[number].kind.attention == "sliding_attention":
                pair[:] = [t and ops.slice_from_end(t, (*t.shape[:2], length, t.shape[3])) for t in pair]

    def record_router_logits(self, router_logits: Tensor) -> None:
        """Keep a router's logits until the forward pass ends, if output_router_logits is set."""
        if self.router_logits is not None:
            self.router_logits.append(router_logits if self.tape.grad_enabled else router_logits.detach())

    def lengthen(self, tokens: Dim) -> None:
        """Add virtual tokens to the front of the sequence."""
        self.length = tokens + self.length

    def input_requiring_grad(self, embeddings: Tensor, name: str = "input embeddings") -> Tensor:
        """Return embeddings that get a gradient even if nothing before them is trained (enable_input_require_grads)."""
        if not self.parameters.graph:
            return LeafTensor(self.tape, embeddings.storage, embeddings.shape, embeddings.dtype)
        leaf = AccumulateGrad(self.tape, name, "activations")
        leaf.context = embeddings
        return Tensor(self.tape, embeddings.storage, embeddings.shape, embeddings.dtype, leaf)

    def set_scope(self, scope: str) -> None:
        """Set the prefix of the names of tensors that are allocated from here on."""
        self.tape.scope = scope


class LayerModules:
    """The bound modules of one layer."""

    __slots__ = ("kind", "modules", "prefix")

    def __init__(self, modules: dict[str, BoundModule], prefix: str, kind: LayerKind) -> None:
        self.modules = modules
        #: The path of the layer, with `*` for its number.
        self.prefix = prefix
        self.kind = kind

    @property
    def names(self) -> list[str]:
        """The names of the layer's parameters in order.

        The parameters of each submodule follow the submodule's name.
        """
        return [
            name
            for each in self.modules.values()
            for name in (*(f"{each.name}.{own.name}" for own in each.module.parameters), each.name)
        ]

    def __getitem__(self, name: str) -> BoundModule:
        return self.modules[name]

    def __contains__(self, name: Any) -> bool:
        return name in self.modules


def sequences(prepared: Prepared) -> Dim:
    """Return the number of sequences in a forward pass: those of each row (such as a pair) times the rows."""
    rows = named(prepared.training.micro_batch_size, "B")
    return rows if prepared.sequences_per_row == 1 else prepared.sequences_per_row * rows


def layer_classes(context: Context) -> list[int]:
    """Return a number for each layer. Layers that allocate the same have equal numbers.

    Layers differ by their modules. They also differ by their attention type if the masks differ, or if the sharding
    makes every layer create its own tensors of a cache. The first layer of an attention type differs from the others,
    because its backward pass frees the mask and the position tables of the type. The first layer of all differs if its
    attention weights are returned, since they may not be saved. It also differs if its input has another dtype than its
    output: two different half-precision dtypes under autocast. The last layer differs if it alone keeps its input on
    the device. The layers of an encoder-decoder are all different, because each adds to the gradient of the encoder's
    output, which the last one creates. So are layers that share other tensors, and those of a model that runs several
    times in a step.
    """
    coupled = context.forward.couples_layers(context.config) or context.method.couples_layers
    if context.model.encoder_layers or coupled or context.model.task.embeds:
        return [*range(len(context.layers))]
    types_differ = masks.sliding_masks_differ(context) or context.hooks.couples_layers
    numbers: dict[Layer, int] = {}
    known: list[tuple[LayerKind, tuple[Module, ...]]] = []
    for layer in dict.fromkeys(context.layers):
        kind = layer.kind if types_differ else _without_window(layer.kind)
        if (kind, layer.modules) not in known:
            known.append((kind, layer.modules))
        numbers[layer] = known.index((kind, layer.modules))
    classes = [*map(numbers.__getitem__, context.layers)]
    if not types_differ:
        for position in _first_of_types(context):
            classes[position] = len(context.layers) + position
    if context.training.has_images and context.forward.tower is not None:
        featured = min(context.forward.tower.featured_layers(context.config), len(classes))
        classes = [*range(-1 - featured, -1), *classes[featured:]]
    if context.prepared.offloads_inputs:
        classes[-1] = -2
    lowered = context.training.autocast or context.dtype
    raised = context.forward.raises_dtype(context.config) and context.dtype != "float32"
    first_differs = (
        raised or context.forward.returns_weights or ops.result_type(context.dtype, lowered) != context.dtype
    )
    return [-1, *classes[1:]] if first_differs else classes


def _first_of_types(context: Context) -> list[int]:
    """Return the first layers with and without a window, if each type has a mask or tables of its own.

    The first two layers are left out. They are interpreted by themselves, or the second after the first.
    """
    if not context.forward.has_tables_of_types and not masks.every_type_has_one(context):
        return []
    has_window = [layer.kind != _without_window(layer.kind) for layer in context.layers]
    return [has_window.index(each) for each in set(has_window) if has_window.index(each) > 1]


def _without_window(kind: LayerKind) -> LayerKind:
    return kind if kind.attention == "full_attention" else replace(kind, attention="full_attention")
