"""Prompt tuning (Lester et al. 2021): learned embeddings in front of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import elements, named
from calculator.architecture.model import SCORE
from calculator.common.errors import refusal
from calculator.common.names import MethodName  # noqa: TC001  `declared` evaluates annotations
from calculator.engine import operations as ops
from calculator.engine.module_calls import leave
from calculator.inputs.settings import setting
from calculator.methods.prompt.facts import FACTS, LARGE_MODEL
from calculator.methods.virtual_tokens import heads
from calculator.methods.virtual_tokens.attention_mask import lengthen_mask
from calculator.methods.virtual_tokens.encoder import ENCODER, called
from calculator.methods.virtual_tokens.method import VirtualTokens
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(VirtualTokens):
    """Prompt tuning: num_virtual_tokens · hidden_size parameters."""

    name: ClassVar[MethodName] = "prompt"
    facts = FACTS

    num_virtual_tokens: int = setting(
        20, label="Virtual tokens", help="Learned embeddings in front of the input.", minimum=1, maximum=1_000_000
    )

    @property
    def embeds_inputs(self) -> bool:
        """True: PEFT embeds the inputs, to concatenate the prompt with the embeddings."""
        return True

    def quality_tier(self, parameters: int) -> int:
        """Return the facts' tier for a large model, and the next tier for a smaller one."""
        return VirtualTokens.quality_tier(self, parameters) + (parameters < LARGE_MODEL)

    def check(self, model: Model, training: Training) -> None:  # noqa: ARG002
        """Refuse configs whose number of heads PEFT can't read, token labels, and embeddings of another width."""
        heads.check(model)
        if model.task.name == "token_cls":
            message = "PEFT adds the virtual tokens to the input but not to the labels, and the loss fails: use lora"
            raise refusal("method.name", message, self.name)
        width, hidden_size = model.embedding.out_features, model.config["hidden_size"]
        if width != hidden_size:
            message = f"PEFT makes a prompt {hidden_size} wide, the embeddings are {width}: use another method"
            raise refusal("method.name", message, self.name)

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:  # noqa: ARG002
        """Return one table of embeddings, in float32 whatever `adapter_dtype` is."""
        shape = (self._rows(model), model.embedding.out_features)
        table = ResidentTensor(
            name=f"{ENCODER}.embedding.weight",
            shape=shape,
            dtype="float32",
            component="adapter_weights",
            parameters=elements(shape),
            trained=True,
            base=False,
        )
        return (table,)

    def _rows(self, model: Model) -> Dim:
        """Return the number of rows of the table.

        For an encoder-decoder, PEFT adds those of the decoder, but only uses the encoder's.

        Source: peft/peft_model.py, _setup_prompt_encoder (num_transformer_submodules).
        """
        p = named(self.num_virtual_tokens, "num_virtual_tokens")
        return 2 * p if model.task.name == "seq_2_seq_lm" else p

    def before_forward(self, context: Context) -> None:
        """Lengthen the mask by the prompt."""
        context.set_scope("prompt_encoder: ")
        lengthen_mask(context, named(self.num_virtual_tokens, "num_virtual_tokens"))

    def prepare_inputs_embeds(self, context: Context, embeddings: Tensor) -> Tensor:
        """Concatenate the prompt, repeated for the batch, with the embeddings (peft.PeftModelForCausalLM.forward)."""
        p, width = named(self.num_virtual_tokens, "num_virtual_tokens"), embeddings.shape[-1]
        context.set_scope("prompt_encoder: ")
        labels = _lengthened(context, p)
        prompts = self.encoded(context, self._rows(context.model), width)
        prompts = ops.cast(prompts, embeddings.dtype, "in the embeddings' dtype")
        context.forward_locals += [prompts, *labels]
        shape = (context.batch, context.length, width)
        first = ops.narrow(prompts, (context.batch, p, width))
        inputs_embeds = ops.cat((first, embeddings), shape, "prompt and embeddings")
        context.forward_locals.append(inputs_embeds)
        return inputs_embeds

    def encoded(self, context: Context, p: Dim, width: int) -> Tensor:
        """Return the learned embeddings, repeated for the batch: (batch, num_virtual_tokens, hidden_size), float32."""
        context.set_scope("prompt_encoder: ")
        dtype = context.prepared.cast_added_to or "float32"
        table = context.parameters.new(f"{ENCODER}.embedding.weight", (p, width), dtype, trained=True)
        indices = context.tape.new((context.batch, p), "int64", "indices")
        if context.method.in_inference_mode:
            return context.tape.new((context.batch, p, width), table.dtype, "repeated")
        return ops.repeat(leave(ENCODER, called(ops.view(indices, (1, p)), table, "output")), context.batch, "repeated")


def _lengthened(context: Context, p: Dim) -> list[Tensor]:
    """Lengthen the sequence by the prompt. Return the labels that this allocates for tokens, unless it generates."""
    model = context.model
    labels_tokens = not context.method.in_inference_mode and model.task.name == "causal_lm" and model.head != SCORE
    labels = [context.tape.new((context.batch, p), "int64", "labels of the prompt")] if labels_tokens else []
    context.lengthen(p)
    if labels:
        labels.append(context.tape.new((context.batch, context.length), "int64", "labels, lengthened"))
        context.passed_labels = labels[-1] if context.forward.passes_labels else None
    return labels
