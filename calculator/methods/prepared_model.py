"""A model as a method prepares it, for one training and one device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.model import Stack
from calculator.devices.kernels import kernels_of
from calculator.engine.recorded_passes import RecordedPasses
from calculator.inputs.stack import DEFAULT_STACK
from calculator.sharding import precision
from calculator.stack.changes import older_behavior
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator

    from calculator.architecture.config import Config
    from calculator.architecture.model import Layer, Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.names import LayerOutputs
    from calculator.devices.kernels import Kernels
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.methods.base import Method
    from calculator.resident.module_spec import ModuleSpec
    from calculator.stack.change import ChangeName


class PreparedModel:
    """A model with a method applied to it, and the training, the device and the stack that it is prepared for."""

    __slots__ = (
        "_kernels",
        "_older",
        "adapter_dtype",
        "cast_to",
        "device",
        "disables_dropout",
        "given",
        "has_prompts",
        "method",
        "model",
        "module_specs",
        "offloads_activations",
        "param_dtype",
        "recorded_passes",
        "sequences_per_row",
        "stack",
        "trainer",
        "training",
        "units",
    )

    def __init__(
        self,
        model: Model,
        method: Method,
        training: Training,
        device: Device,
        stack: StackVersions = DEFAULT_STACK,
    ) -> None:
        #: The training loop.
        self.trainer = trainer_of(training)
        facts = self.trainer.facts
        #: The number of sequences of each row that a pass of the model runs: two if a row is a pair.
        self.sequences_per_row = self.trainer.sequences_in_a_pass(stack)
        #: Whether each sequence begins with a prompt, so that its first token has no label.
        self.has_prompts = facts.has_prompts
        #: Whether the trainer sets the probabilities of torch.nn.Dropout modules to 0.
        self.disables_dropout = facts.disables_dropout
        model = self.trainer.model(model, stack)
        self.method = method.for_model(model)
        self.model = self.method.with_layers(model)
        #: The training in the request, which the method is applied to.
        self.given = training
        #: The dtype in which the request's script adds adapters, whatever a sharding casts them to.
        self.adapter_dtype = training.adapter_dtype
        #: The dtype that every parameter is cast to after the method is applied. None if they are not cast.
        self.cast_to = precision.cast_to(training, device)
        #: The training that the step runs.
        self.training = training if self.cast_to is None else precision.step_training(training, device, method)
        #: Whether the trainer offloads saved tensors to host memory.
        self.offloads_activations = facts.offloads_saved_tensors and bool(self.training.activation_offloading)
        self.device = device
        self.stack = stack
        #: The attention kernels, and the differences from the default releases. None until they are read.
        self._kernels: Kernels | None = None
        self._older: frozenset[ChangeName] | None = None
        #: The dtype in which a sharding gathers every parameter. None if each has its own.
        self.param_dtype: DType | None = None
        #: Cached specs by path and identity. Two kinds of layers may have different modules at the same path.
        self.module_specs: dict[tuple[str, int], ModuleSpec] = {}
        #: The no-grad passes of the last micro-batch.
        self.recorded_passes = RecordedPasses()
        #: The units of FSDP2 that are known: those of layers, by their stack and identity, and those around them.
        self.units: dict[Hashable, Any] = {}

    @property
    def kernels(self) -> Kernels:
        """The attention kernels of the device and the stack."""
        if self._kernels is None:
            self._kernels = kernels_of(self.device, self.stack, self.training.kernels)
        return self._kernels

    @kernels.setter
    def kernels(self, kernels: Kernels) -> None:
        self._kernels = kernels

    @property
    def hidden_dtype(self) -> DType:
        """The dtype of hidden states, which is that of the embeddings."""
        given = self.param_dtype or self.cast_to or self._trained_embeddings_dtype
        return given or self.trainer.hidden_dtype(self)

    @property
    def _trained_embeddings_dtype(self) -> DType | None:
        """The dtype that trained word embeddings are cast to, or None if they are not cast."""
        if getattr(self.method, "unfrozen_dtype", "model") == "model" or not self.model.has_word_embeddings:
            return None
        embedding = self.model.embedding
        spec = self.module_spec(embedding.name, embedding)
        return spec.copy_dtype if spec.copied else spec.cast_to

    @property
    def cast_added_to(self) -> DType | None:
        """The dtype that parameters outside of the base's modules are cast to. None if they are not cast."""
        if not precision.is_built_partitioned(self.given, self.device, self.method):
            return self.cast_to
        stays = self.training.adapter_dtype == "float32" or self.method.facts.always_float32
        return None if stays else self.cast_to

    @property
    def grads_inputs(self) -> bool:
        """Whether embeddings get a gradient even if nothing before them is trained, as under checkpointing.

        PEFT needs it. `gradient_checkpointing_enable` does it by itself if the main input is ids
        (transformers/modeling_utils.py, enable_input_require_grads), but not in older releases.
        """
        when = self.trainer.facts.grads_inputs
        checkpoints = when == "always" or (when == "checkpointed" and self.training.gradient_checkpointing)
        by_itself = self.model.reads_ids and "embeddings_without_gradients" not in self.older
        return checkpoints and (by_itself or not self.method.facts.trains_base)

    @property
    def offloads_inputs(self) -> bool:
        """Whether checkpointing keeps the inputs of all layers but the last in host memory."""
        return self.trainer.offloads_inputs(self)

    @property
    def layer_outputs(self) -> LayerOutputs | None:
        """Which tensors of every layer the model returns to the trainer, if any."""
        return self.trainer.layer_outputs(self)

    def config(self, dropout_modules: Collection[str]) -> Config:
        """Return the model's config.

        If the trainer sets the probabilities of the dropout modules to 0, they are left out.
        """
        config = self.model.config
        if config.keys().isdisjoint(dropout_modules) or not self.disables_dropout:
            return config
        return {name: 0.0 if name in dropout_modules else value for name, value in config.items()}

    @property
    def older(self) -> frozenset[ChangeName]:
        """The differences of the requested library releases from the default ones."""
        if self._older is None:
            self._older = older_behavior(self.stack, self.model.model_type)
        return self._older

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the method stores and trains one module."""
        spec = self.module_specs.get((path, id(module)))
        if spec is None:
            spec = self.method.module_spec(path, module, self.model, self.given)
            if self.method.makes_on_host and not self._moves_model:
                spec = replace(spec, added=tuple([parameter for parameter in spec.added if not parameter.made_on_host]))
            spec = self.trainer.module_spec(self, path, spec)
            if self.cast_to is not None:
                spec = precision.cast(spec, self.cast_to, self.training)
            self.module_specs[path, id(module)] = spec
        return spec

    @property
    def _moves_model(self) -> bool:
        """Whether a trainer, or a library that shards the model, moves it to the GPU with all buffers."""
        return self.given.trainer is not None or self.device.sharding != "none"

    @property
    def modules(self) -> Iterator[tuple[str, Module, ModuleSpec]]:
        """Every module with its path and its spec, in the model's order. Layers follow one another."""
        for part in self.model.parts:
            yield from self._specs_of_part(part, part.layers if isinstance(part, Stack) else ())

    @property
    def distinct_modules(self) -> Iterator[tuple[str, Module, ModuleSpec]]:
        """The same modules, with those of each kind of layer once."""
        for part in self.model.parts:
            yield from self._specs_of_part(
                part, [layer for layer, _ in part.distinct] if isinstance(part, Stack) else ()
            )

    def _specs_of_part(self, part: Module | Stack, layers: Iterable[Layer]) -> Iterator[tuple[str, Module, ModuleSpec]]:
        if not isinstance(part, Stack):
            yield part.name, part, self.module_spec(part.name, part)
        for layer in layers:
            for module in layer.modules:
                path = module.under(f"{part.name}.*")
                yield path, module, self.module_spec(path, module)

    def for_run(self, training: Training, device: Device) -> PreparedModel:
        """Return the same model for a run with another batch, length, accumulation or device. The specs are shared."""
        prepared = PreparedModel(self.model, self.method, training, device, self.stack)
        prepared.module_specs, prepared.adapter_dtype = self.module_specs, self.adapter_dtype
        prepared.cast_to = self.cast_to  # because the training that the step runs has no autocast
        prepared.recorded_passes = self.recorded_passes
        prepared.share_releases(self)
        return prepared

    def share_releases(self, other: PreparedModel) -> None:
        """Take what depends on the releases and the device from another prepared model of the same stack."""
        self._older = other._older
        if self.device is other.device and self.training.kernels == other.training.kernels:
            self._kernels = other._kernels

    @property
    def on_cuda(self) -> PreparedModel:
        """The same model for the same run, with what kernels allocate on CUDA."""
        prepared = self.for_run(self.given, replace(self.device, type="cuda"))
        prepared.recorded_passes = RecordedPasses()
        return prepared

    @property
    def first_micro_batch(self) -> PreparedModel:
        """The same model for the first micro-batch of a step."""
        return self.for_run(self.training.first_micro_batch, self.device)

    def gathered_in(self, dtype: DType, training: Training) -> PreparedModel:
        """Return the same model with every parameter gathered in a dtype, for a training without autocast."""
        prepared = PreparedModel(self.model, self.method, training, self.device, self.stack)
        prepared.param_dtype, prepared.adapter_dtype = dtype, self.adapter_dtype
        prepared.share_releases(self)
        return prepared
