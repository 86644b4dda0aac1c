"""The relative cost of a step: floating-point operations and moved bytes, at the GPU's rated speeds.

Multiplying T tokens by a weight of n elements takes 2·n·T operations. Its backward pass takes as many for the gradient
of the inputs, and as many again for that of the weight (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). A frozen
weight has no gradient. The reference is one forward and backward pass over the frozen base without checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.devices import gpu
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import resident_state
from calculator.inference.matmul_counts import products, trained_products

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.devices import GPU
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

KAPLAN = "Kaplan et al. 2020, arXiv 2001.08361, section 2.1 and table 1"
CHEN = "Chen et al. 2016, arXiv 1604.06174, section 3: one more forward pass"
DEQUANTIZED = "bitsandbytes/autograd/_functions.py, MatMul4Bit: each product dequantizes its weight, forward and back"
FLOAT32 = (
    "PyTorch's float32 products use no tensor cores by default (torch.backends.cuda.matmul.allow_tf32 is False); a"
    " 4-bit layer returns the dtype of its input (bitsandbytes/nn/modules.py, Linear4bit.forward)"
)
ROOFLINE = "Williams et al. 2009, Roofline, doi 10.1145/1498765.1498785: a product takes at least as long as its reads"

#: The GPU that is assumed if the request names none, or if the speeds of its GPU are not published.
USUAL_GPU = "a100-sxm4-80gb"

REFERENCE = "forward and backward over the frozen base with everything kept: 4 operations per weight and token"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTerm:
    """One term of a step's cost: its amount, its share of the reference step, its arithmetic and its source."""

    name: str
    amount: int
    unit: Literal["operations", "bytes"]
    relative: float
    formula: str
    substituted: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """The cost of an optimizer step on one GPU, relative to the reference step of the same model and batch."""

    relative: float
    #: The number of floating-point operations.
    operations: int
    #: The seconds of the step at the GPU's rated speeds.
    rated_seconds: float
    reference: str
    #: The GPU whose rated speeds convert operations and bytes to seconds.
    card: str
    terms: tuple[CostTerm, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """The rated speeds of a GPU, in dense operations and in bytes per second.

    Attributes:
        card: The name of the GPU.
        operations: Operations per second in half precision.
        float32: Operations per second in float32, or in half precision if that is not known.
        bytes: Bytes per second of its memory.
    """

    card: str
    operations: float
    float32: float
    bytes: float


def speeds(card: GPU | None) -> Speeds:
    """Return the rated speeds of a GPU, or those of USUAL_GPU if they are not known."""
    rate = (card.bf16_tflops or card.fp16_tflops) if card else None
    if card is None or rate is None or card.bandwidth_gbs is None:
        return speeds(gpu(USUAL_GPU))
    float32 = card.fp32_tflops or rate
    return Speeds(card=card.name, operations=rate * 1e12, float32=float32 * 1e12, bytes=card.bandwidth_gbs * 1e9)


def step_cost(model: Model, request: Request, answer: Estimate) -> StepCost:
    """Return the cost of an optimizer step with all its micro-batches."""
    step = _Step(model, request, answer)
    terms = tuple(step.terms())
    relative = sum(term.relative for term in terms)
    return StepCost(
        relative=relative,
        rated_seconds=relative * step.reference,
        operations=sum(term.amount for term in terms if term.unit == "operations"),
        reference=REFERENCE,
        card=step.speeds.card,
        terms=terms,
    )


def computes_attention_in_float32(request: Request) -> bool:
    """Return whether hidden states are float32 while products with quantized weights are in half precision."""
    if request.training.autocast is not None or not request.method.facts.quantizes_base:
        return False
    return request.training.dtype != "float32" and resident_state(request).prepared.hidden_dtype == "float32"


class _Step:
    """The quantities from which the terms of one request are computed."""

    def __init__(self, model: Model, request: Request, answer: Estimate) -> None:
        training, method = request.training, request.method
        self.model, self.request = model, request
        self.products = products(model)
        self.speeds = speeds(card_of(request.device))
        self.micro_batches = training.gradient_accumulation_steps
        texts = training.texts_per_example if model.task.embeds else 1
        sequences = training.micro_batch_size * self.micro_batches * texts
        self.positions = training.sequence_length + method.virtual_tokens
        lengthened = method.virtual_tokens if method.facts.lengthens_input else 0
        self.tokens = sequences * (training.sequence_length + lengthened)
        self.facts = method.facts
        self.added = answer.parameters.added if self.facts.forward_operations else 0
        self.passes = 3 if training.gradient_checkpointing else 2
        attention = 3 * self.products.attention * training.sequence_length
        plain = sequences * training.sequence_length * (4 * self.products.weights + attention)
        #: Whether the hidden states are float32 while products with 4-bit weights are in half precision.
        self.float32 = computes_attention_in_float32(request)
        #: The seconds of the reference step at the rated speed.
        self.reference = plain / self.speeds.operations

    def terms(self) -> Iterator[CostTerm]:
        """Yield every term that applies."""
        tokens, weights = f"{self.tokens:,}", self.products.weights
        attended = self.products.attention * self.positions
        if self.float32:
            yield from self._base_in_two_dtypes(tokens, attended)
        else:
            yield self._operations(
                "forward and backward of the base",
                self.tokens * (4 * weights + 3 * attended),
                "tokens × (4 × weights + 3 × attended)",
                f"{tokens} × (4 × {weights:,} + 3 × {attended:,})",
                KAPLAN,
            )
        trained = self._trained_weights() if self.facts.trains_base else 0
        if trained:
            yield self._operations(
                "gradients of the weights",
                self.tokens * 2 * trained,
                "tokens × 2 × trained weights" if self.request.method.trains_part else "tokens × 2 × weights",
                f"{tokens} × 2 × {trained:,}",
                KAPLAN,
            )
        if self.added:
            operations = self.facts.forward_operations + self.facts.backward_operations
            yield self._operations(
                "added modules",
                self.tokens * operations * self.added,
                f"tokens × {operations} × added",
                f"{tokens} × {operations} × {self.added:,}",
                KAPLAN,
            )
        if self.request.training.gradient_checkpointing:
            yield self._recomputed(tokens, attended)
        yield from self._traffic_terms()

    def _trained_weights(self) -> int:
        """Return the number of weights in products that are trained."""
        method, training = self.request.method.for_model(self.model), self.request.training
        if not method.trains_part:
            return self.products.weights
        model = method.with_layers(self.model)

        def trains(path: str, module: Module) -> bool:
            trained = method.module_spec(path, module, model, training).trained
            return bool(trained) if module.kind == "experts" else "weight" in trained

        return trained_products(model, trains)

    def _base_in_two_dtypes(self, tokens: str, attended: int) -> Iterator[CostTerm]:
        """Yield the terms of a base in 4 bits: its products in half precision, attention and head in float32."""
        layers, head = self.products.layers, self.products.head
        yield self._operations(
            "forward and backward of the base's layers",
            self.tokens * 4 * layers,
            "tokens × 4 × weights of layers",
            f"{tokens} × 4 × {layers:,}",
            KAPLAN,
        )
        passes = 4 if self.request.training.gradient_checkpointing else 3
        yield self._operations(
            "attention and output head in float32",
            self.tokens * (4 * head + passes * attended),
            f"tokens × (4 × weights of the head + {passes} × attended)",
            f"{tokens} × (4 × {head:,} + {passes} × {attended:,})",
            FLOAT32,
            rate=self.speeds.float32,
        )

    def _recomputed(self, tokens: str, attended: int) -> CostTerm:
        """Return the term of the forward pass that checkpointing repeats for the layers and their added parameters.

        Attention in float32 is counted elsewhere.
        """
        layers, forward = self.products.layers, self.facts.forward_operations
        attended = 0 if self.float32 else attended
        if forward in (0, 2):
            inner = layers + self.added
            formula, numbers = "2 × (weights of layers + added)", f"2 × {inner:,}"
        else:
            formula = f"2 × weights of layers + {forward} × added"
            numbers = f"2 × {layers:,} + {forward} × {self.added:,}"
        return self._operations(
            "recomputed layers",
            self.tokens * (2 * layers + forward * self.added + attended),
            f"tokens × ({formula} + attended)",
            f"{tokens} × ({numbers} + {attended:,})",
            CHEN,
        )

    def _traffic_terms(self) -> Iterator[CostTerm]:
        """Yield the terms of moved bytes: dequantized weights, and weight reads that few tokens do not hide."""
        request = self.request
        state = resident_state(request).tensors if self.facts.quantizes_base else ()
        quantized = sum(tensor.parameters * tensor.count for tensor in state if tensor.packed)
        if quantized:
            moved = round(self.micro_batches * self.passes * quantized * 2.5)
            yield self._bytes(
                "dequantized weights",
                moved,
                moved / self.speeds.bytes,
                "micro-batches × passes × weights in 4 bits × (0.5 read + 2 written)",
                f"{self.micro_batches:,} × {self.passes} × {quantized:,} × 2.5",
                DEQUANTIZED,
            )
        weights = self.products.weights
        read = self.micro_batches * self.passes * weights * 2
        hidden = self.tokens * self.passes * weights * 2 / self.speeds.operations
        beyond = read / self.speeds.bytes - hidden
        if beyond > 0:
            yield self._bytes(
                "weights read for few tokens",
                read,
                beyond,
                "micro-batches × passes × weights × 2, beyond what the products hide",
                f"{self.micro_batches:,} × {self.passes} × {weights:,} × 2",
                ROOFLINE,
            )

    def _operations(
        self, name: str, amount: int, formula: str, substituted: str, source: str, rate: float | None = None
    ) -> CostTerm:
        """Return a term of operations, at `rate` or at the GPU's rate in half precision."""
        return CostTerm(
            name=name,
            amount=amount,
            unit="operations",
            relative=amount / (rate or self.speeds.operations) / self.reference,
            formula=formula,
            substituted=substituted,
            source=source,
        )

    def _bytes(self, name: str, amount: int, seconds: float, formula: str, substituted: str, source: str) -> CostTerm:
        return CostTerm(
            name=name,
            amount=amount,
            unit="bytes",
            relative=seconds / self.reference,
            formula=formula,
            substituted=substituted,
            source=source,
        )
