"""State that the forward pass of one step shares: the tape, the sizes, the modules by name."""

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


#: The names in a config of the probability of dropout in attention.
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")

#: Marks the name of a tensor that belongs to layers that are not run.
NOT_RUN = "of layers not run"


class Context:
    """State of one step, or of one pass of `generate`, passed to every layer."""

    __slots__ = (
        "attends_to_window",
        "attention",
        "attention_dropout",
        "attn_weights",
        "batch",
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
        """Start a step on a tape of its own, or with `tape` a pass without a graph inside the step of that tape.

        With the `parameters` of a pass before it too, the pass has a graph, and trains the same parameters.
        """
        #: What the sharding runs in a micro-batch.
        self.hooks = hooks
        #: The dtype of the model's buffers that have none of their own.
        self.buffer_dtype: DType = prepared.given.dtype
        prepared = self.hooks.computed(prepared)
        model, method, training = prepared.model, prepared.method, prepared.training
        self.tape = tape or Tape(trains=trains)
        #: The prefix of this pass's marks between layers.
        self.marks = ""
        self.tape.module_dropout, self.tape.calls_modules = not prepared.disables_dropout, self.hooks.calls_modules
        #: What runs in place of the model that is trained.
        self.compared: str | None = None
        #: Whether every layer's tensors have rows of their own, for a replay.
        #: And whether one period stands for the layers of a pass without a graph inside the step.
        self.unrolls = self.repeats_layers = False
        self.prepared = prepared
        self.kernels = prepared.kernels
        #: What the stack does differently from the default one.
        self.older = prepared.older
        self.model = model
        self.config = prepared.config(forward.dropout_modules)
        #: The forward pass of the model's family.
        self.forward = forward
        self.method = method
        self.training = training
        rows, tokens = sequences(prepared), named(training.sequence_length, "S")
        self.batch: Dim = named(1, "1") if training.flattened else rows
        #: Tokens of this pass, virtual tokens included; of all sequences, where they are one row.
        self.length: Dim = rows * tokens if training.flattened else tokens
        #: Tokens in the cache from earlier passes or a prefix, whether the caller gives every sequence's positions, and
        #: whether only the logits of the last position are computed (logits_to_keep=1).
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
        #: Whether the model that runs makes a cache.
        self.caches = False
        #: The masks by attention type, and the one of the layer that runs.
        self.masks: dict[MixerType, Tensor | None] = {}
        self.mask: Tensor | None = None
        #: The mask of padding, where the layer that runs is recurrent.
        self.recurrent_mask: Tensor | None = None
        #: Whether the layer that runs has a sliding window.
        self.attends_to_window = False
        #: Position tensors that the layer that runs receives; outside the layers, those of all layers.
        self.position_tables: tuple[Tensor, ...] = ()
        #: Attention weights that the layer's code refers to, and those that the last layer returned to the decoder.
        self.attn_weights = self.returned_attn_weights = None
        #: Locals that stay alive to the end of the model's forward pass.
        self.forward_locals: list[Tensor] = []
        #: Locals of the decoder that stay alive while its layers run.
        self.decoder_locals: list[Tensor] = []
        #: Each router's logits, None unless the config sets output_router_logits or a trainer asks for their loss.
        gives_logits = model.adds_router_loss or model.config.get("output_router_logits")
        self.router_logits: list[Tensor] | None = [] if gives_logits else None
        #: A number for each layer, equal for layers that allocate the same.
        self.classes = layer_classes(self)
        #: The layers that are run, and how many layers each represents.
        self.repetition = self.hooks.repetition(self.classes)
        #: What folds the layers of a pass in which every layer's tensors have rows of their own.
        self.layer_loop: LayerLoop | None = None
        #: A prefix's keys and values of layers that are not run.
        self.skipped_layer_tensors: list[Tensor] = []
        #: Gradients of router logits of layers that are not run.
        self.skipped_router_gradients: list[Tensor] = []
        #: Whether the first layer may be derived from the second instead of being run, and that layer if it is. And
        #: whether the first period represents those after it if it returns hidden states like those that it receives.
        self.may_skip_first_layer = self.may_repeat_first_period = False
        self.skipped_layer: SkippedLayer | None = None
        #: The passes without a graph inside the step: the prefix of their marks, and the layers that they run.
        self.passes: list[tuple[str, Repetition]] = []
        self._before_the_batch()

    def _before_the_batch(self) -> None:
        """Set what a batch and an encoder give."""
        #: Whether a token attends to no later one; of an encoder-decoder, in the stack that runs.
        self.is_causal = self.forward.is_causal
        #: The input of a decoder, and the output and the mask of the encoder that it attends to once it runs.
        self.decoder_ids: Tensor | None = None
        #: Whether `generate` runs the model, which then has no labels.
        self.generates = False
        #: A prefix of the decoder alone, and its tokens.
        self.decoder_cache: Cache | None = None
        self.decoder_past = 0
        self.encoder_states: Tensor | None = None
        self.encoder_mask: Tensor | None = None
        #: The position biases that the layers of a stack share, by whether they are of cross-attention.
        self.position_biases: dict[bool, Tensor] = {}
        #: What the family's decoder passes to its layers in addition to the hidden states, if it passes anything.
        self.passed: Any = None
        #: The mask of padding that the model is given, if it is not that of the batch.
        self.padding_mask: Tensor | None = None
        #: The labels of a batch, if they are not the tokens themselves.
        self.labels: list[Tensor] = []
        #: The texts of each example, which are embedded one after the other: ids and a mask of each.
        self.texts: list[tuple[Tensor, Tensor]] = []
        #: Labels that a method lengthens and the model passes to its layers.
        self.passed_labels: Tensor | None = None
        #: The number of labels in a step, which a trainer passes to the model.
        self.num_items: Tensor | None = None
        #: Where each sample of a flattened batch begins, if the batch comes with that.
        self.sample_bounds: Tensor | None = None
        #: What a batch has because of its images, the pixels first; the batch and the loss, which the loop refers to.
        self.images, self.caller_tensors = list[Tensor](), list[Tensor]()
        #: What the model returns in addition to the loss and the logits: its cache, and because of images tensors, each
        #: with the number of images that it is split into.
        self.returned_cache: Cache | None = None
        self.image_outputs: list[tuple[Tensor, int]] = []
        #: What the first layers of the decoder add to the hidden states of images, each with the mask of these.
        self.image_features: list[tuple[Tensor, Tensor]] = []

    @property
    def image(self) -> Processed:
        """An image of the batch, as the processor passes it to the model."""
        assert self.forward.tower is not None
        assert self.training.images is not None
        return self.forward.tower.process(self.model.config, self.training.images)

    @property
    def image_count(self) -> int:
        """The images of the batch."""
        return self.prepared.sequences_per_row * self.training.image_count

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that run."""
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
        """Return the positions: those of all sequences if the caller gives them, or of one that the model counts.

        Those of a flattened batch come with it.
        """
        if self.gives_positions or self.training.flattened:
            return Tensor(self.tape, None, (self.batch, length), "int64", None)
        return self.tape.new((1, length), "int64", "position_ids")

    def exit_layer(self, position_tables: tuple[Tensor, ...], given: masks.OfLayer) -> None:
        """Drop the locals of a layer, except attention weights that it returns to the decoder."""
        self.position_tables, (self.mask, self.recurrent_mask) = position_tables, given
        returns = self.forward.returns_weights and bool(self.masks)
        self.returned_attn_weights, self.attn_weights = (self.attn_weights if returns else None), None

    def release(self) -> None:
        """Drop the locals of the decoder."""
        self.position_tables, self.mask, self.masks, self.encoder_mask = (), None, {}, None
        self.recurrent_mask = None
        self.position_biases, self.padding_mask, self.passed = {}, None, None
        self.decoder_locals, self.returned_attn_weights, self.skipped_layer_tensors = [], None, []
        self.image_features = []

    def drop_outputs(self) -> None:
        """Drop what the model returned in addition to the loss and the logits."""
        self.returned_cache, self.image_outputs = None, []

    def update_cache(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values to the cache, if there is one, and return all of its layer."""
        if self.cache is None:
            return key, value
        if "cache_without_copies" in self.older:
            return self.cache.refer(key, value)
        one_dtype = "values_cached_as_keys" in self.older
        return self.cache.update(key, value, windowed=self.attends_to_window, one_dtype=one_dtype)

    def fill_cache(self, layers: list[list[Tensor]], length: Dim) -> None:
        """Copy a prefix's keys and values into the cache, for every layer.

        `layers` are those of the layers that are run. The others' are dropped when the layer begins that represents
        theirs, since the last layer sees no other's.
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
        """Cut a prefix to the window in sliding layers: a slice from the end, even if it is the whole.

        Source: transformers.cache_utils.DynamicSlidingWindowLayer.update.
        """
        length = masks.cached_tokens(self, "sliding_attention")
        for number, pair in zip(self.repetition.numbers, cache.before, strict=True):
            if self.layers[number].kind.attention == "sliding_attention":
                pair[:] = [t and ops.slice_from_end(t, (*t.shape[:2], length, t.shape[3])) for t in pair]

    def record_router_logits(self, router_logits: Tensor) -> None:
        """Keep a router's logits to the end of the forward pass if output_router_logits is set."""
        if self.router_logits is not None:
            self.router_logits.append(router_logits if self.tape.grad_enabled else router_logits.detach())

    def lengthen(self, tokens: Dim) -> None:
        """Add virtual tokens to the front of the sequence."""
        self.length = tokens + self.length

    def input_requiring_grad(self, embeddings: Tensor, name: str = "input embeddings") -> Tensor:
        """Return embeddings that get a gradient though nothing before them is trained (enable_input_require_grads)."""
        leaf = AccumulateGrad(self.tape, name, "activations")
        if not self.parameters.graph:
            return LeafTensor(self.tape, embeddings.storage, embeddings.shape, embeddings.dtype, leaf)
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
        #: The path of the layer, in which its number is `*`.
        self.prefix = prefix
        self.kind = kind

    @property
    def names(self) -> list[str]:
        """Return the names of the layer's parameters in order, and after those of each module its own."""
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
    """Return the number of sequences in a forward pass: those of each row, such as a pair, by the rows."""
    rows = named(prepared.training.micro_batch_size, "B")
    return rows if prepared.sequences_per_row == 1 else prepared.sequences_per_row * rows


def layer_classes(context: Context) -> list[int]:
    """Return a number for each layer, equal for layers that allocate the same.

    Layers differ by their modules, and by their attention type if the masks differ, or if the sharding has every layer
    make its own tensors of a cache. The first layer of an attention type differs from the others: its backward pass
    frees the mask and the position tables of the type. The first layer of all differs if its attention weights are
    returned, since they may not be saved, and if its input is of another dtype than its output: two different
    half-precision dtypes under autocast. The last one differs if it alone keeps its input on the device.

    The layers of an encoder-decoder are all different: each adds to the gradient of the encoder's output, which the
    last one makes. So are layers that share other tensors, and those of a model that runs several times in a step.
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
    """Return where the first layers with and without a window are, if each type has a mask or tables of its own.

    The first two layers are left out: they are interpreted by themselves, or the second after the first.
    """
    if not context.forward.has_tables_of_types and not masks.every_type_has_one(context):
        return []
    has_window = [layer.kind != _without_window(layer.kind) for layer in context.layers]
    return [has_window.index(each) for each in set(has_window) if has_window.index(each) > 1]


def _without_window(kind: LayerKind) -> LayerKind:
    return kind if kind.attention == "full_attention" else replace(kind, attention="full_attention")
