"""The state of one forward pass: the tape, the sizes, and the modules by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine.autograd import AccumulateGrad
from calculator.engine.offloading import WEIGHT_VIEWS, OffloadedActivations
from calculator.engine.result_types import result_type
from calculator.engine.tape import LeafTensor, Tape, Tensor
from calculator.layers import masks
from calculator.layers.batch_state import BatchState
from calculator.layers.bound_module import BoundModule, Parameters
from calculator.layers.layer_classes import layer_classes
from calculator.layers.layer_modules import LayerModules
from calculator.layers.sharding_hooks import NO_HOOKS, Hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Dim
    from calculator.architecture.layer_kind import MixerType
    from calculator.architecture.model import Layer
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.layer_in_place import LayerInPlace
    from calculator.engine.layer_loop import LayerLoop
    from calculator.engine.repetition import Repetition
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.skipped_passes import SkippedPasses
    from calculator.layers.cache import Cache
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.method_hooks import Prepared
    from calculator.layers.sharding_hooks import Unit
    from calculator.layers.tower import Processed


#: The names in a config of the dropout probability in attention.
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")


def _set_up(tape: Tape, prepared: Prepared, hooks: Hooks) -> None:
    """Set what a tape needs to know of the model, the sharding and the kernels."""
    kernels = prepared.kernels
    tape.module_dropout, tape.calls_modules = not prepared.disables_dropout, hooks.calls_modules
    # The package flash-attn has a kernel of its own.
    tape.flash_state_on_gpu = kernels.flash_state_on_gpu or prepared.training.attention == "flash_attention_2"
    tape.efficient_state_on_gpu, tape.product_workspace = kernels.efficient_state_on_gpu, kernels.product_workspace
    tape.multiprocessors, tape.capability = kernels.multiprocessors, kernels.capability
    tape.rotary_products = kernels.rotary_products


class Context(BatchState):
    """The state of one step, or of one pass of `generate`. It is passed to every layer."""

    __slots__ = (
        "attends_to_window",
        "attention",
        "attention_dropout",
        "attn_weights",
        "batch",
        "before_first_pass",
        "bounds_first_layer",
        "buffer_dtype",
        "cache",
        "caches",
        "classes",
        "compared",
        "config",
        "decoder_locals",
        "dtype",
        "first_period_differs",
        "forward",
        "forward_locals",
        "gives_positions",
        "grads_inputs",
        "hooks",
        "is_reentrant",
        "keeps_last",
        "kernels",
        "layer_in_place",
        "layer_loop",
        "length",
        "marks",
        "mask",
        "masks",
        "may_repeat_first_period",
        "may_skip_first_layer",
        "method",
        "model",
        "older",
        "parameters",
        "passes",
        "past",
        "position_tables",
        "positions_before_images",
        "prepared",
        "records_layers_again",
        "recurrent_mask",
        "repeats_layers",
        "repetition",
        "returned_attn_weights",
        "router_logits",
        "shows_first_layer",
        "skipped",
        "skipped_layer",
        "skipped_layer_tensors",
        "skipped_router_gradients",
        "skips_first_period",
        "tape",
        "tower_unit",
        "training",
        "unrolls",
        "unsets_cache",
    )

    attn_weights: Tensor | None
    #: What a sharding runs before the first pass of the model that it wraps. None once it has run.
    before_first_pass: Callable[[Tape], None] | None
    skipped: SkippedPasses | None
    returned_attn_weights: Tensor | None
    #: The position ids that the model has created before it runs a vision tower.
    positions_before_images: Tensor | None
    #: The layer of a vision tower that runs. It is set while one does.
    tower_unit: Unit
    skipped_layer: SkippedLayer | None
    #: The layer whose backward pass is a bound on that of the first one, if the latter is to be derived from it.
    layer_in_place: LayerInPlace | None

    def __init__(
        self,
        prepared: Prepared,
        forward: DecoderForward,
        *,
        hooks: Hooks = NO_HOOKS,
        trains: bool = True,
        tape: Tape | None = None,
        parameters: Parameters | None = None,
        classes: tuple[int, ...] | None = None,
    ) -> None:
        """Start a step on a tape of its own, or a pass inside a step on that step's `tape`.

        A pass on a given `tape` has no graph. With the `parameters` of an earlier pass too, it has a graph, and trains
        the same parameters. `classes` are those of the layers, if they are known.
        """
        super().__init__(is_causal=forward.is_causal)
        #: The hooks of the sharding in a micro-batch.
        self.hooks = hooks
        #: The dtype of the model's buffers that have none of their own.
        self.buffer_dtype: DType = prepared.given.dtype
        prepared = self.hooks.computed(prepared)
        model, method, training = prepared.model, prepared.method, prepared.training
        self.tape = tape or Tape(trains=trains, cuda=prepared.kernels.cuda)
        #: The prefix of this pass's marks between layers.
        self.marks = ""
        _set_up(self.tape, prepared, self.hooks)
        #: The reference model that runs in place of the trained model. None for the trained model.
        self.compared: str | None = None
        #: Whether use_cache is false in the model's own config, whatever the request's has.
        self.unsets_cache = False
        #: Whether every layer's tensors have rows of their own, for a replay. And whether one period stands for the
        #: layers of a no-grad pass inside the step. Whether the first period of such a pass is not interpreted,
        #: because the second one is like it. And whether that has turned out to be wrong.
        self.unrolls = self.repeats_layers = self.skips_first_period = self.first_period_differs = False
        self.prepared, self.kernels, self.grads_inputs = prepared, prepared.kernels, prepared.grads_inputs
        #: The differences of the requested library releases from the default ones.
        self.older = prepared.older
        self.model = model
        self.config = prepared.config(forward.dropout_modules)
        #: The forward pass of the model's family.
        self.forward = forward
        self.method = method
        #: Some trainers decide themselves whether checkpoints are re-entrant.
        self.training, self.is_reentrant = training, training.use_reentrant
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
            keeps_inputs="inputs_of_frozen_4bit_layers" in self.older or method.keeps_inputs,
            follows_inputs="compute_dtype_of_the_input" in self.older,
            dtype=self.hooks.param_dtype,
            graph=tape is None,
            shares=model.runs_several_times,
        )
        #: The dtype of hidden states.
        self.dtype: DType = prepared.hidden_dtype
        #: The attention implementation that runs.
        self.attention = training.attention
        if training.attention == "sdpa" and "sdpa_without_softcapping" not in self.older:
            self.attention = forward.sdpa
        self.attention_dropout = float(next(filter(None, map(self.config.get, DROPOUTS)), 0.0))
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
        self.attn_weights = self.returned_attn_weights = self.positions_before_images = None
        #: Local variables that stay alive until the model's forward pass ends.
        self.forward_locals: list[Tensor] = []
        #: Local variables of the decoder that stay alive while its layers run.
        self.decoder_locals: list[Tensor] = []
        #: The logits of each router. None unless the config sets output_router_logits or a trainer requests their loss.
        gives_logits = model.adds_router_loss or model.config.get("output_router_logits")
        self.router_logits: list[Tensor] | None = [] if gives_logits else None
        #: A number for each layer. Layers that allocate the same have equal numbers.
        self.classes = classes or self._layer_classes()
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
        #: Whether its backward pass is a bound on that of the first layer, and whether the latter's peak is to be known
        #: too. Whether checkpointed layers may be recorded again.
        self.may_skip_first_layer = self.may_repeat_first_period = self.bounds_first_layer = False
        self.shows_first_layer = self.records_layers_again = False
        #: `skipped` are the no-grad passes that need not be interpreted. None if all are.
        self.skipped_layer = self.layer_in_place = self.skipped = self.before_first_pass = None
        #: The no-grad passes inside the step: the prefix of their marks, and the layers that they interpret.
        self.passes: list[tuple[str, Repetition]] = []

    def _layer_classes(self) -> tuple[int, ...]:
        """Return a number for each layer. Layers that allocate the same have equal numbers.

        Attention types differ if their masks do, or if the sharding makes every layer create its own tensors of a
        cache. The first layer differs if its attention weights are returned, since they may not be saved, or if its
        input has another dtype than its output: two different half-precision dtypes under autocast. The last layer
        differs if it alone keeps its input on the device. The layers of an encoder-decoder are all different, because
        each adds to the gradient of the encoder's output, which the last one creates. So are layers that share other
        tensors, those of a model that runs several times in a step, those whose outputs the trainer keeps, and those
        whose saved tensors are offloaded: a layer frees the inputs of others.
        """
        forward, training = self.forward, self.training
        offloads = self.parameters.graph and self.prepared.offloads_activations
        couples_layers = forward.couples_layers(self.config) or self.method.couples_layers or offloads
        returns_outputs = self.prepared.layer_outputs is not None
        if self.model.encoder_layers or couples_layers or self.model.runs_several_times or returns_outputs:
            return tuple(range(len(self.layers)))
        several = len(self.model.attention_types) > 1
        types_differ = several and (masks.sliding_masks_differ(self) or self.hooks.couples_layers)
        tower = forward.tower if training.has_images else None
        raises_dtype = forward.raises_dtype(self.config) and self.dtype != "float32"
        other_dtype = result_type(self.dtype, training.autocast or self.dtype) != self.dtype
        return layer_classes(
            self.layers,
            types_differ=types_differ,
            first_of_types_differs=several
            and not types_differ
            and (forward.has_tables_of_types or masks.every_type_has_mask(self)),
            with_images=0 if tower is None else min(tower.featured_layers(self.config), len(self.layers)),
            last_differs=self.prepared.offloads_inputs,
            first_differs=raises_dtype or forward.returns_weights or other_dtype,
        )

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

    def bind(self, module: Module) -> BoundModule:
        """Return a module outside the layers with its parameters on this tape."""
        path, run = module.name, self.method.forward_in(self)
        return BoundModule(self.parameters, path, module, self.prepared.module_spec(path, module), run)

    def outer(self, name: str) -> BoundModule:
        """Return the module outside the layers that has the name in a model with a head."""
        return self.bind(self.model.outer[name.removeprefix(self.model.base)])

    def has(self, name: str) -> bool:
        """Return whether a module outside the layers has the name in a model with a head."""
        return name.removeprefix(self.model.base) in self.model.outer

    def layer(self, layer: Layer, prefix: str) -> LayerModules:
        """Return a layer's modules by their names within the layer. Their parameters are on this tape."""
        spec_of, run, path = self.prepared.module_spec, self.method.forward_in(self), prefix.removesuffix(".")
        bound: dict[str, BoundModule] = {}
        for module in layer.modules:
            name = module.under(path)
            bound[module.name] = BoundModule(self.parameters, name, module, spec_of(name, module), run)
        return LayerModules(bound, prefix, layer.kind)

    def position_ids(self, length: int) -> Tensor:
        """Return the position ids, of all sequences if the caller gives them, or of one sequence.

        The position ids of a flattened batch are part of the batch. An older model then counts those of its cache too.
        """
        if self.positions_before_images is not None:
            return self.positions_before_images
        if self.training.flattened and "positions_of_the_cache" in self.older:
            return self.tape.new((1, length), "int64", "cache_position")
        if self.gives_positions or self.training.flattened:
            return Tensor(self.tape, None, (self.batch, length), "int64", None)
        return self.tape.new((1, length), "int64", "position_ids")

    def exit_layer(self, position_tables: tuple[Tensor, ...], given: masks.LayerMasks) -> None:
        """Drop the local variables of a layer, except attention weights that it returns to the decoder."""
        self.position_tables, (self.mask, self.recurrent_mask) = position_tables, given
        returns = self.forward.returns_weights and bool(self.masks)
        self.returned_attn_weights, self.attn_weights = (self.attn_weights if returns else None), None

    def release(self) -> None:
        """Drop the local variables of the decoder."""
        self.position_tables, self.positions_before_images = (), None
        self.mask, self.masks, self.encoder_mask = None, {}, None
        self.recurrent_mask = None
        self.position_biases, self.padding_mask, self.passed = {}, None, None
        self.decoder_locals, self.returned_attn_weights, self.skipped_layer_tensors = [], None, []
        self.image_features = []

    def update_cache(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values to the cache, if there is one. Return all keys and values of the layer."""
        if self.cache is None:
            if self.skipped is not None:
                self.skipped.note_cached(key, value)
            return key, value
        if "cache_without_copies" in self.older:
            return self.cache.refer(key, value)
        one_dtype = "values_cached_as_keys" in self.older
        return self.cache.update(key, value, windowed=self.attends_to_window, one_dtype=one_dtype)

    def record_router_logits(self, router_logits: Tensor) -> None:
        """Keep a router's logits until the forward pass ends, if output_router_logits is set."""
        if self.router_logits is not None:
            self.router_logits.append(router_logits if self.tape.grad_enabled else router_logits.detach())

    def lengthen(self, tokens: Dim) -> None:
        """Add virtual tokens to the front of the sequence."""
        self.length = tokens + self.length

    def begin_offloading(self) -> OffloadedActivations:
        """Offload what nodes save from here on. Return the hooks."""
        checkpoints = self.training.gradient_checkpointing
        reenters = checkpoints and self.is_reentrant
        leaves_inputs = reenters or (checkpoints and self.grads_inputs)
        self.tape.weight_views = WEIGHT_VIEWS.get(self.prepared.device.sharding)
        self.offloaded = OffloadedActivations(self.tape, leaves_inputs=leaves_inputs, reenters=reenters)
        self.tape.hooks.append(self.offloaded)
        return self.offloaded

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


def sequences(prepared: Prepared) -> Dim:
    """Return the number of sequences in a forward pass: those of each row (such as a pair) times the rows."""
    rows = named(prepared.training.micro_batch_size, "B")
    return rows if prepared.sequences_per_row == 1 else prepared.sequences_per_row * rows
