"""A method in eval mode. Nothing is trained, and the added parameters are separate or merged."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from calculator.methods import LoRA, Prefix, Prompt, PTuning, QLoRA
from calculator.methods import Method as Trained
from calculator.methods.base import Method
from calculator.methods.low_rank.method import LowRank
from calculator.resident.module_spec import ModuleSpec
from calculator.resident.quantization import Quantization, code_book, converted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inference.settings import Serving
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.expert_weights import Weights
    from calculator.layers.layer_modules import LayerModules
    from calculator.methods.costs import OtherOperations
    from calculator.resident.module_spec import CopyName
    from calculator.resident.tensor import ResidentTensor


#: The number of weights that share one constant. Source: bitsandbytes.nn.Linear4bit, whose default transformers uses.
BLOCKSIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedMethod(Method):
    """A method in eval mode. The base is stored in 4 bits if `quantization` is given."""

    method: Trained
    quantization: Quantization | None
    merged: bool = False

    @property
    def virtual_tokens(self) -> int:
        """The number of virtual tokens of the method."""
        return self.method.virtual_tokens

    @property
    def in_inference_mode(self) -> bool:
        """True: PEFT loads a saved method so."""
        return True

    @property
    def embeds_inputs(self) -> bool:
        """Whether PEFT embeds the input for the method."""
        return self.method.embeds_inputs

    @property
    def makes_on_host(self) -> bool:
        """Whether the method adds buffers that are made on the host."""
        return self.method.makes_on_host

    @property
    def mergeable(self) -> bool:
        """Whether the added parameters can be merged into the weights."""
        return self.method.facts.mergeable is True

    def with_layers(self, model: Model) -> Model:
        """Return the model with the method's kinds of layers."""
        return self.method.with_layers(model)

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Return the module as frozen, in 4 bits if bitsandbytes converts it."""
        quantization = self.quantization if converted(path, module, model) else None
        spec = self.method.module_spec(path, module, model, training)
        if self.merged:
            return ModuleSpec(dtype=training.dtype, quantization=quantization)
        return ModuleSpec(dtype=training.dtype, quantization=quantization, added=spec.added, copied=spec.copied)

    def copy_name(self, path: str) -> CopyName | None:
        """Return the name of the trained copy that merging puts in place of its original."""
        return None if self.merged else self.method.copy_name(path)

    def hidden_dtype(self, training: Training) -> DType:
        """Return the dtype of the embeddings and norms."""
        return training.dtype

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the method's parameters that belong to no module, and the code book of nested constants."""
        added = () if self.merged or self.method.facts.quantizes_base else self.method.added(model, training)
        return added + (code_book(model, self.quantization) if self.quantization else ())

    def base_quantization(self, training: Training) -> Quantization | None:  # noqa: ARG002
        """Return the 4-bit format that the base is served in, or None."""
        return self.quantization

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run the method's forward."""
        return self.method.forward(bound, x)

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """Return the method's table."""
        return self.method.embedding_weight(bound) if bound.added else bound.own["weight"]

    def embedding_forward(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """Run the method's embedding."""
        return self.method.embedding_forward(bound, ids, rows, scale)

    def expert_weights(self, context: Context, bound: BoundModule) -> Weights:
        """Return the method's weights of experts."""
        return self.method.expert_weights(context, bound) if bound.added else bound.own

    def after_attention(self, context: Context, modules: LayerModules, x: Tensor, output: Tensor) -> Tensor:
        """Run the module of the method around attention, and return the output."""
        return self.method.after_attention(context, modules, x, output)

    def around_sublayer(self, modules: LayerModules, sublayer: Literal["attention", "mlp"]) -> tuple[str, ...]:
        """Return the path of the module of the method around a sublayer; empty if there is none."""
        return self.method.around_sublayer(modules, sublayer)

    def after_sublayer(
        self, context: Context, modules: LayerModules, sublayer: Literal["attention", "mlp"], hidden_states: Tensor
    ) -> Tensor:
        """Run the module of the method after a sublayer, and return the output."""
        return self.method.after_sublayer(context, modules, sublayer, hidden_states)

    def before_forward(self, context: Context) -> None:
        """Run the operations of the method before the forward pass of the model."""
        self.method.before_forward(context)

    def cuts_prefix_to_windows(self, model: Model) -> bool:
        """Return whether the method's prefix is cut to the windows of sliding layers."""
        return self.method.cuts_prefix_to_windows(model)

    def prepare_inputs_embeds(self, context: Context, embeddings: Tensor) -> Tensor:
        """Return the prompt's embeddings from the method, or those of a later token unchanged."""
        return embeddings if context.past else self.method.prepare_inputs_embeds(context, embeddings)

    def is_matmul(self, tensor: ResidentTensor) -> bool:
        """Return whether the method's parameter is a factor of a matrix product."""
        return self.method.is_matmul(tensor)

    def is_read(self, tensor: ResidentTensor) -> bool:
        """Return whether each generated token reads the method's parameter in full."""
        return self.method.is_read(tensor)

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
        """Return the method's operations that are not matrix products."""
        return self.method.other_operations(added, batch)


def served(method: Trained, serving: Serving) -> ServedMethod:
    """Return the method over a base in the requested storage."""
    quantization = quantized(method, serving)
    return ServedMethod(method=_loaded(method, quantization), quantization=quantization, merged=serving.merged)


def _loaded(method: Trained, quantization: Quantization | None) -> Trained:
    """Return the method as PEFT loads it over a base in that storage."""
    match method:
        case LoRA() | QLoRA():
            return _low_rank(method, quantization)
        case Prefix():
            # PEFT saves and loads the result of the projection (peft.PeftModel.get_prompt).
            return replace(method, prefix_projection=False)
        case PTuning():
            return Prompt(num_virtual_tokens=method.num_virtual_tokens)
        case _:
            return method


def quantized(method: Trained, serving: Serving) -> Quantization | None:
    """Return the 4-bit format that the base is served in, or None."""
    if serving.storage == "as_trained":
        stored = method.base_quantization(serving.training)
        return stored if isinstance(stored, Quantization) else None
    if serving.storage == "dtype":
        return None
    return Quantization(
        quant_type=serving.storage,
        blocksize=BLOCKSIZE,
        double_quant=serving.bnb_4bit_use_double_quant,
        compute_dtype=serving.dtype,
    )


def _low_rank(method: LoRA | QLoRA, quantization: Quantization | None) -> LoRA | QLoRA:
    shared = {field.name: getattr(method, field.name) for field in fields(LowRank)}
    if quantization is None:
        return LoRA(**shared)
    return QLoRA(
        **shared,
        quant_type=quantization.quant_type,
        double_quant=quantization.double_quant,
        blocksize=quantization.blocksize,
        prepare_model_for_kbit_training=False,
    )
