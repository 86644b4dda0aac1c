"""The interface of a fine-tuning method, and of the prepared model, that the forward pass uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.names import LayerOutputs
    from calculator.devices.kernels import Kernels
    from calculator.engine.tape import Tensor
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule, Wrapper
    from calculator.layers.context import Context
    from calculator.layers.expert_weights import Weights
    from calculator.layers.layer_modules import LayerModules
    from calculator.resident.module_spec import ModuleSpec
    from calculator.stack.change import ChangeName


class MethodHooks(Protocol):
    """A fine-tuning method in the forward pass. `calculator.methods.base.Method` documents each hook."""

    @property
    def virtual_tokens(self) -> int:
        """The number of tokens that the method adds to each sequence."""

    @property
    def keeps_inputs(self) -> bool:
        """Whether quantized layers refer to their inputs until the graph is freed."""

    @property
    def in_inference_mode(self) -> bool:
        """Whether PEFT has loaded the method for inference."""

    @property
    def embeds_inputs(self) -> bool:
        """Whether PEFT looks up the word embeddings and passes them to the model."""

    @property
    def couples_layers(self) -> bool:
        """Whether layers share a trained tensor."""

    @property
    def runs_no_grad_first(self) -> bool:
        """Whether each forward pass follows one under no_grad."""

    @property
    def needs_no_cache(self) -> bool:
        """Whether a script sets `config.use_cache` to false."""

    def cuts_prefix_to_windows(self, model: Model) -> bool:
        """Return whether a prefix in the cache is cut to the windows of sliding layers."""

    def after_loss(self, context: Context, loss: Tensor) -> Tensor:
        """Return the loss with the terms that the method adds to it."""

    def before_forward(self, context: Context) -> None:
        """Run before the model's forward."""

    def prepare_inputs_embeds(self, context: Context, embeddings: Tensor) -> Tensor:
        """Return the input embeddings that the first layer receives."""

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """Return the table in which an embedding looks up its rows."""

    def embedding_forward(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """Return the output of an embedding with added parameters."""

    def expert_weights(self, context: Context, bound: BoundModule) -> Weights:
        """Return the parameters of running fused experts."""

    def forward_in(self, context: Context) -> Wrapper:
        """Return the forward of modules with added parameters in a pass."""

    def kept(self, context: Context) -> Tensor | None:
        """Return a tensor that the model keeps from one forward pass to the next."""

    def before_no_grad_pass(self, context: Context) -> None:
        """Run before the no-grad pass."""

    def after_no_grad_pass(self, context: Context, hidden_states: Tensor) -> None:
        """Run after it, with the hidden states of the last norm."""

    def around_sublayer(self, modules: LayerModules, sublayer: Literal["attention", "mlp"]) -> tuple[str, ...]:
        """Return the path of the module that is called in place of a sublayer, and that `after_sublayer` leaves."""

    def after_attention(self, context: Context, modules: LayerModules, x: Tensor, output: Tensor) -> Tensor:
        """Run after attention, whose input is `x`."""

    def after_sublayer(
        self, context: Context, modules: LayerModules, sublayer: Literal["attention", "mlp"], hidden_states: Tensor
    ) -> Tensor:
        """Run after a sublayer, before its residual is added."""


class Prepared(Protocol):
    """A model to which a method has been applied, for one training and one device."""

    @property
    def model(self) -> Model:
        """The model itself."""

    @property
    def method(self) -> MethodHooks:
        """The method."""

    @property
    def training(self) -> Training:
        """The training that the model is prepared for."""

    @property
    def given(self) -> Training:
        """The training in the request."""

    @property
    def device(self) -> Device:
        """The device, and the number of GPUs."""

    @property
    def stack(self) -> StackVersions:
        """The releases of the libraries."""

    @property
    def hidden_dtype(self) -> DType:
        """The dtype of hidden states."""

    @property
    def cast_to(self) -> DType | None:
        """The dtype that every parameter is cast to after the method is applied. None if they are not cast."""

    @property
    def cast_added_to(self) -> DType | None:
        """The dtype that parameters outside of the base's modules are cast to. None if they are not cast."""

    @property
    def sequences_per_row(self) -> int:
        """The number of sequences in each row of a micro-batch: two if a row is a pair."""

    @property
    def has_prompts(self) -> bool:
        """Whether each sequence begins with a prompt, so that its first token has no label."""

    @property
    def disables_dropout(self) -> bool:
        """Whether torch.nn.Dropout modules drop nothing."""

    @property
    def grads_inputs(self) -> bool:
        """Whether checkpointing gives embeddings a gradient even if nothing before them is trained."""

    @property
    def offloads_inputs(self) -> bool:
        """Whether checkpointing keeps the inputs of all layers but the last in host memory."""

    @property
    def layer_outputs(self) -> LayerOutputs | None:
        """Which tensors of every layer the model returns to the trainer, if any."""

    @property
    def offloads_activations(self) -> bool:
        """Whether saved tensors are offloaded to host memory."""

    def config(self, dropout_modules: Collection[str]) -> Config:
        """Return the model's config.

        The probabilities of these dropout modules are those that the trainer leaves.
        """

    @property
    def kernels(self) -> Kernels:
        """The attention kernels of the device."""

    @property
    def older(self) -> frozenset[ChangeName]:
        """The differences of the requested library releases from the default ones."""

    def module_spec(self, path: str, module: Module) -> ModuleSpec:
        """Return how the method stores and trains one module."""
