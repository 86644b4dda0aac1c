"""The base class of methods: the hooks through which a method changes a model and its training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from calculator.common.names import MethodName  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.costs import OtherOperations
from calculator.methods.saved_parameters import SavedParameters
from calculator.methods.targeted.modules_to_save import is_saved
from calculator.resident.module_spec import CopyName, new_module_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule, Wrapper
    from calculator.layers.context import Context
    from calculator.layers.expert_weights import Weights
    from calculator.layers.layer_modules import LayerModules
    from calculator.methods.costs import MergeStep
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.stored_weight import StoredWeight
    from calculator.resident.tensor import ResidentTensor


class Method(SavedParameters):
    """A fine-tuning method.

    A subclass overrides the hooks for what it changes. By default, nothing changes.
    """

    __slots__ = ()
    name: ClassVar[MethodName]
    #: The name of the trained copy of a classifier's head. None if the head itself is trained.
    classifier_copy: ClassVar[CopyName | None] = "modules_to_save"

    @property
    def makes_on_host(self) -> bool:
        """Whether the method adds buffers that are made on the host (see `Added.made_on_host`)."""
        return False

    @property
    def virtual_tokens(self) -> int:
        """The number of virtual tokens in front of a sequence."""
        return 0

    @property
    def in_inference_mode(self) -> bool:
        """Whether PEFT has loaded the method for inference: its config's `inference_mode`, not `model.eval()`."""
        return False

    @property
    def embeds_inputs(self) -> bool:
        """Whether PEFT embeds the input itself and calls the model with `inputs_embeds`."""
        return False

    @property
    def title(self) -> str:
        """The method's name in words."""
        return self.facts.label

    @property
    def label(self) -> str:
        """The method's name in lists and headings."""
        return self.facts.label

    @property
    def quantizes_base(self) -> bool:
        """Whether the base model's linear layers are stored in 4 or 8 bits."""
        return self.facts.quantizes_base

    @property
    def keeps_inputs(self) -> bool:
        """Whether quantized layers refer to their inputs until the graph is freed. Checkpointing does not see that."""
        return False

    @property
    def couples_layers(self) -> bool:
        """Whether layers share a trained tensor.

        Each layer adds to the tensor's gradient, so every layer is interpreted.
        """
        return False

    @property
    def runs_no_grad_first(self) -> bool:
        """Whether each forward pass follows a no-grad pass, whose hidden states the method reads."""
        return False

    @property
    def needs_no_cache(self) -> bool:
        """Whether PEFT refuses a model that makes a cache, so that a script sets `config.use_cache` to false."""
        return False

    @property
    def binds_forward(self) -> bool:
        """Whether PEFT keeps calling the forward that the model had when PEFT wrapped it.

        A trainer's replacement of the forward then has no effect.
        """
        return False

    @property
    def plain_steps_only(self) -> bool:
        """Whether only steps of the reference loop, of transformers' Trainer and of SFTTrainer are modeled."""
        return self.facts.plain_steps_only

    @property
    def plain_shardings(self) -> tuple[str, ...]:
        """The shardings under which the reference step is modeled, for a method with plain steps only."""
        return self.facts.plain_shardings

    @property
    def trains_biases(self) -> bool:
        """Whether biases of the base model are trained. PEFT allows that for a single adapter only."""
        return False

    @property
    def rank_multiple(self) -> int:
        """The number that the method's `r` must be a multiple of."""
        return 1

    @property
    def trains_part(self) -> bool:
        """Whether it trains weights of the base model, but not all."""
        return self.facts.trains_part

    @property
    def steps_copies(self) -> bool:
        """Whether the optimizer updates float32 copies of the trained parameters, which `added` has."""
        return False

    @property
    def drops_states(self) -> bool:
        """Whether the optimizer drops its states at the end of every step."""
        return False

    @property
    def empties_cache(self) -> bool:
        """Whether the optimizer empties the allocator's cache in every step."""
        return False

    @property
    def is_cast_to_float32(self) -> bool:
        """Whether PEFT's prepare_model_for_kbit_training casts the loaded model's other weights to float32."""
        return False

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The settings that determine the method's size, for a plan's label."""
        return ()

    def quality_tier(self, parameters: int) -> int:  # noqa: ARG002
        """Return the method's rank in a plan's order of quality, for a model of that many parameters.

        0 is the best.
        """
        return self.facts.quality_tier or 0

    def check(self, model: Model, training: Training) -> None:
        """Refuse settings that the real libraries refuse.

        Raises:
            PlanError: with the reason.
        """

    @property
    def refuses_unmerged(self) -> str | None:
        """Why serving the method without merging is refused. None if it is not."""
        return self.facts.refuses_unmerged

    @property
    def refuses_merging(self) -> str | None:
        """Return why it cannot be merged with these settings, although the method can."""
        return None

    def refuses_4_bits(self, model: Model) -> str | None:  # noqa: ARG002
        """Return why the method is refused over a 4-bit base, or None."""
        return self.facts.refuses_4_bits

    def nearest_targets(self, model: Model) -> Literal["all-linear"] | tuple[str, ...] | None:  # noqa: ARG002
        """Return the accepted `target_modules` nearest to refused ones, or None if there are none."""
        return None

    def for_model(self, model: Model) -> Self:  # noqa: ARG002
        """Return the method with the settings that PEFT adds for the model's task."""
        return self

    def peft_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of PEFT's configuration, from the settings by their names."""
        return arguments

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what the figures assume about the method's settings."""
        return ()

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:  # noqa: ARG002
        """Return sentences on the risks of the method's settings with a model and a training."""
        return ()

    @property
    def differs_between_layers(self) -> bool:
        """Whether the method treats layers of a kind differently."""
        return False

    def with_layers(self, model: Model) -> Model:
        """Return the model with a kind of layer for each way in which the method treats layers."""
        return model

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return how one module is stored and trained. `path` is its full name.

        A classifier's head is trained too.
        """
        if not is_saved(path, model.task.trained_heads):
            return new_module_spec(dtype=training.dtype)
        trained = tuple(parameter.name for parameter in module.parameters)
        return new_module_spec(dtype=training.dtype, trained=trained, copied=self.classifier_copy)

    def base_quantization(self, training: Training) -> StoredWeight | None:  # noqa: ARG002
        """Return how the base model's linear layers are stored in 4 or 8 bits, or None."""
        return None

    def copy_name(self, path: str) -> CopyName | None:  # noqa: ARG002
        """Return the name of the copy of a module and its buffers, or None if the module is not copied.

        It may be copied alone or inside a copied module.
        """
        return None

    def hidden_dtype(self, training: Training) -> DType:
        """Return the dtype of hidden states, which is that of the embeddings and norms."""
        return training.dtype

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return parameters of the whole model that belong to no module."""
        return ()

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run a module with added parameters: (..., in_features) to (..., out_features)."""
        return bound.base(x)

    def forward_in(self, context: Context) -> Wrapper:  # noqa: ARG002
        """Return the forward of modules with added parameters in a pass."""
        return self.forward

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """Return the table in which an embedding looks up its rows."""
        return bound.own["weight"]

    def embedding_forward(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:  # noqa: ARG002
        """Run an embedding with added parameters.

        `rows` are its own rows for the ids. If it has a `scale`, they are multiplied by it.
        """
        return rows

    def expert_weights(self, context: Context, bound: BoundModule) -> Weights:  # noqa: ARG002
        """Return the parameters of running fused experts or of their router, by name."""
        return bound.own

    def around_sublayer(
        self,
        modules: LayerModules,  # noqa: ARG002
        sublayer: Literal["attention", "mlp"],  # noqa: ARG002
    ) -> tuple[str, ...]:
        """Return the path of the module that is called in place of a sublayer, and that `after_sublayer` leaves.

        Empty if the sublayer itself is called.
        """
        return ()

    def after_sublayer(
        self,
        context: Context,  # noqa: ARG002
        modules: LayerModules,  # noqa: ARG002
        sublayer: Literal["attention", "mlp"],  # noqa: ARG002
        hidden_states: Tensor,
    ) -> Tensor:
        """Run what follows a sublayer before its residual is added."""
        return hidden_states

    def after_attention(self, context: Context, modules: LayerModules, x: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002
        """Run what wraps attention, given its input and its output. This precedes `after_sublayer`."""
        return output

    def cuts_prefix_to_windows(self, model: Model) -> bool:  # noqa: ARG002
        """Return whether a cache that is filled before the model runs is cut to the windows of sliding layers."""
        return False

    def before_forward(self, context: Context) -> None:
        """Run what precedes the model's forward."""

    def kept(self, context: Context) -> Tensor | None:  # noqa: ARG002
        """Return a tensor that PEFT's model keeps from the forward pass before, until this one replaces it."""
        return None

    def before_no_grad_pass(self, context: Context) -> None:
        """Run what precedes the no-grad pass, if `runs_no_grad_first`."""

    def after_no_grad_pass(self, context: Context, hidden_states: Tensor) -> None:
        """Run what follows it. `hidden_states` are those of the last norm."""

    def prepare_inputs_embeds(self, context: Context, embeddings: Tensor) -> Tensor:  # noqa: ARG002
        """Return the first layer's input, computed from the input embeddings."""
        return embeddings

    def after_loss(self, context: Context, loss: Tensor) -> Tensor:  # noqa: ARG002
        """Return the loss plus what PEFT's model adds to it."""
        return loss

    def statistics(self, tensors: Sequence[ResidentTensor], training: Training) -> tuple[ResidentTensors, ...]:  # noqa: ARG002
        """Return the tensors that the method keeps per parameter between steps, besides the optimizer's states."""
        return ()

    def after_step(self, tensors: Sequence[ResidentTensor], training: Training) -> tuple[ResidentTensors, ...]:  # noqa: ARG002
        """Return the temporaries of what the method runs after the optimizer's step, while gradients are alive."""
        return ()

    def optimized(self, tensors: Sequence[ResidentTensor], model: Model) -> Sequence[ResidentTensor]:  # noqa: ARG002
        """Return the tensors with the parameters as the optimizer has states of them."""
        return tensors

    def is_matmul(self, tensor: ResidentTensor) -> bool:
        """Return whether an added parameter is a factor of a matrix product."""
        return len(tensor.shape) > 1

    def is_read(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return whether each generated token reads an added parameter in full."""
        return True

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:  # noqa: ARG002
        """Return a generated token's operations with added parameters that are not matrix products."""
        return OtherOperations()

    def merge_step(self, module: Module, module_spec: ModuleSpec) -> MergeStep | None:  # noqa: ARG002
        """Return the allocations of merging a module's added parameters.

        Return None if the module has none, or if that is not modeled.
        """
        return None
