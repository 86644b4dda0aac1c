"""What an answer rests on, and what is worth knowing beside it, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.reserved_rule import REPLAY, RULE
from calculator.families import forward_of
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.estimate.request import Request
    from calculator.resident.tensors import ResidentTensor

#: How far peaks were from traced training steps (tests/calculator/estimate/test_traced_cases.py holds this sentence).
ACCURACY = (
    "Held against more than 700 training steps of the real modules, traced on PyTorch's meta device, every peak was "
    "right to a millionth. No GPU has measured them yet."
)

#: transformers/integrations/moe.py, grouped_mm_experts_forward.
EXPERTS = (
    "Experts run as grouped products, as transformers does on CUDA from compute capability 8.0 on: each token brings "
    "as many rows as it has experts, whichever the router chooses. A router that sends every token to the same "
    "experts needs the memory of a balanced one, and every expert's gradient is there from the first step on."
)

#: ATen/autocast_mode.cpp, cached_cast; torch/utils/checkpoint.py enters autocast again.
AUTOCAST = (
    "Autocast encloses the forward pass and no more. It keeps a copy of every trained float32 weight from its first "
    "use to the end of that pass, and casts what is frozen at every use; a checkpointed layer is recomputed under "
    "autocast too. Grouped products of experts are not in its list: they run in their weights' dtype."
)

#: torch.amp.GradScaler.
SCALER = (
    "Gradients of float16 products underflow without torch.amp.GradScaler, which the reference step has none of: "
    "it adds a few scalars and changes gradients in place."
)

#: The versions that every figure speaks of.
STACK = "PyTorch 2.13 or later on CUDA, transformers 5.24, peft 0.21, bitsandbytes 0.50"


def assumptions(request: Request, model: Model, verdict: Fit | None) -> tuple[str, ...]:
    """What the figures take for granted."""
    told = [
        f"The figures speak of {STACK}; the step is one of a run's later ones, so that optimizer states exist.",
        REPLAY if request.reserved == "replay" else RULE,
        ACCURACY,
        "Data loading, evaluation and whatever a Trainer adds are not counted.",
    ]
    if OPTIMIZERS[request.training.optimizer].storage == "8bit":
        told.append("8-bit optimizers keep embeddings in 8 bits too; the Hugging Face Trainer keeps those in 32 bits.")
    if model.config.get("use_cache") and not request.training.gradient_checkpointing:
        told.append("use_cache is on, as in the config: keys and values are cached while the forward pass runs.")
    if request.training.autocast is not None:
        told.append(AUTOCAST)
    if request.training.autocast == "float16":
        told.append(SCALER)
    if any(module.kind == "experts" for module in model.modules):
        told.append(EXPERTS)
    if not request.length_given:
        told.append(f"No sequence_length was given: {request.training.sequence_length:,} tokens are taken.")
    told += model.notes
    if verdict is not None and verdict.assumption:
        told.append(verdict.assumption)
    return tuple(told)


def warnings(request: Request, model: Model, state: Iterable[ResidentTensor] = ()) -> tuple[str, ...]:
    """Risks worth knowing; `state` is what stays of the model under its method."""
    told = _passed_by(state) if model.idle else []
    if request.method.facts.always_float32 and request.training.adapter_dtype == "model":
        told.append(
            "PEFT keeps prefix and prompt parameters in float32 whatever adapter_dtype says; so do the figures."
        )
    if request.method.facts.quantizes_base:
        told += not_quantised(model)
    elif (request.model.config or {}).get("quantization_config"):
        told.append(
            "The config.json has a quantization_config, which these figures leave aside: weights are taken in "
            f"{request.training.dtype}. For a base in 4 bits ask for qlora."
        )
    told += _before_2_14(request, model)
    told += _not_counted(model)
    positions = model.config.get("max_position_embeddings")
    if positions and request.training.sequence_length > positions:
        told.append(
            f"The sequence is longer than the model's {positions:,} positions; its quality there is another matter."
        )
    return tuple(told)


def not_quantised(model: Model) -> list[str]:
    """What bitsandbytes leaves as it is."""
    kinds = {module.kind for module in model.modules}
    told = []
    if "experts" in kinds:
        told.append("bitsandbytes leaves experts alone, which transformers 5 stores as fused 3-D parameters.")
    if any(module.kind == "linear" and not module.quantizable for _, module in model.running):
        told.append("bitsandbytes leaves this family's own Linear class alone: its weights stay as they are.")
    return told


def _passed_by(state: Iterable[ResidentTensor]) -> list[str]:
    """What is trained and no gradient comes to."""
    count = sum(each.parameters * each.count for each in state if each.trained and not each.in_graph)
    if not count:
        return []
    return [
        f"{count:,} of the trained parameters get no gradient from text: they lie on the card, and nothing is learned."
    ]


def _not_counted(model: Model) -> list[str]:
    """What a config switches on and the step leaves out."""
    told = []
    if model.config.get("layerdrop"):
        told.append("layerdrop is on: the figures are those of a step that drops no layer.")
    return told


def _before_2_14(request: Request, model: Model) -> list[str]:
    """What the math kernel keeps, where PyTorch before 2.14 takes it (calculator/layers/math_attention.py)."""
    training, config = request.training, model.config
    sdpa = training.attention == "sdpa" and forward_of(model).sdpa == "sdpa"
    heads, groups = config.get("num_attention_heads", 0), config.get("num_key_value_heads", 0)
    masked = training.padding or request.method.facts.masks_attention
    float32 = request.method.hidden_dtype(training) == "float32" and training.autocast is None
    if not sdpa or masked or not float32 or heads == groups:
        return []
    length = training.sequence_length + request.method.virtual_tokens
    scores = 4 * int(heads) * training.micro_batch_size * length**2
    where = "three times over in the layer at work" if training.gradient_checkpointing else "in every layer"
    return [
        (
            "PyTorch before 2.14 computes float32 attention with grouped heads on its math kernel, which keeps the "
            f"scores: {scores / 2**30:.2f} GiB {where}. These figures take 2.14's memory-efficient kernel."
        )
    ]
