"""P-tuning (Liu et al. 2021): a prompt that a small network computes from learned embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.common.names import MethodName  # noqa: TC001  `declared` evaluates annotations
from calculator.engine import operations as ops
from calculator.engine.module_calls import leave
from calculator.inputs.settings import setting
from calculator.methods.p_tuning.facts import FACTS
from calculator.methods.prompt.method import Prompt
from calculator.methods.virtual_tokens.encoder import ENCODER, called, sequential

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PTuning(Prompt):
    """P-tuning: embeddings and an MLP with three layers. Only the output of the MLP is saved and served."""

    name: ClassVar[MethodName] = "p_tuning"
    facts = FACTS

    encoder_hidden_size: int | None = setting(
        None,
        label="Encoder width",
        help="The width h of the encoder's hidden layers; null for hidden_size.",
        minimum=1,
        maximum=65_536,
        example=128,
        empty="hidden_size",
    )

    def quality_tier(self, parameters: int) -> int:  # noqa: ARG002
        """Return 0, because no tier is known."""
        return 0

    def _shapes(self, width: Dim) -> dict[str, Shape]:
        """Return the shapes of the encoder's parameters (peft.tuners.p_tuning.model.PromptEncoder)."""
        hidden = named(self.encoder_hidden_size or width, "encoder_hidden_size")
        return {
            "mlp_head.0.weight": (hidden, width),
            "mlp_head.0.bias": (hidden,),
            "mlp_head.2.weight": (hidden, hidden),
            "mlp_head.2.bias": (hidden,),
            "mlp_head.4.weight": (width, hidden),
            "mlp_head.4.bias": (width,),
        }

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the table of embeddings and the encoder, in float32 whatever `adapter_dtype` is."""
        (table,) = Prompt.added(self, model, training)
        layers = self._shapes(Dim(model.embedding.out_features, "hidden_size")).items()
        return table, *(
            replace(table, name=f"{ENCODER}.{name}", shape=shape, parameters=elements(shape), bytes=0)
            for name, shape in layers
        )

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:  # noqa: ARG002
        """Return the bytes of the embeddings that the encoder computes (PeftModel.get_prompt_embedding_to_save)."""
        table = next(tensor for tensor in state if tensor.name == f"{ENCODER}.embedding.weight")
        return elements(table.shape) * ITEMSIZE[table.dtype]

    def encoded(self, context: Context, p: Dim, width: int) -> Tensor:
        """Return the encoder's output, repeated for the batch: (batch, num_virtual_tokens, hidden_size) in float32."""
        context.set_scope("prompt_encoder: ")
        dtype = context.prepared.cast_added_to or "float32"
        table = context.parameters.new(f"{ENCODER}.embedding.weight", (p, width), dtype, trained=True)
        weights = {
            name: context.parameters.new(f"{ENCODER}.{name}", shape, dtype, trained=True)
            for name, shape in self._shapes(Dim(width, "hidden_size")).items()
        }
        indices = context.tape.new((context.batch, p), "int64", "indices")
        one = ops.view(indices, (1, p))
        relu, x = partial(ops.unary, name="ReLU", saves="result"), called(one, table, "embedding")
        x = sequential("mlp_head", weights, x, ("layer",) * 3, relu)
        return ops.repeat(leave(ENCODER, x), context.batch, "repeated")
