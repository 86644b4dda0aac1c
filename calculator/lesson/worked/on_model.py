"""A method on a real model: the rule of thumb and the estimated training step."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.settings import setting
from calculator.inputs.training import Training
from calculator.lesson.worked.line import Line, WorkedExample
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import MethodName


@dataclass(frozen=True, slots=True, kw_only=True)
class OnModel:
    """The inputs of every method."""

    model: str = setting("meta-llama/Llama-2-7b-hf", label="Model", help="A hub id from the catalogue.")
    micro_batch_size: int = setting(1, label="Micro-batch size", help="B.", minimum=1, maximum=65_536)
    sequence_length: int = setting(
        2048, label="Sequence length", help="S.", minimum=2, maximum=16_777_216, unit="tokens"
    )
    gradient_checkpointing: bool = setting(
        True, label="Gradient checkpointing", help="Recompute each layer in the backward pass."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankOnModel(OnModel):
    """The rank and the targets of LoRA and QLoRA."""

    r: int = setting(8, label="Rank", help="r.", minimum=1, maximum=65_536)
    target_modules: Literal["attention", "all-linear"] = setting(
        "attention", label="Adapted", help="Q, K, V and O of the Llama family, or every linear layer."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedOnModel(LowRankOnModel):
    """The lesson's 70B run."""

    model: str = setting("meta-llama/Meta-Llama-3-70B", label="Model", help="A hub id from the catalogue.")
    r: int = setting(64, label="Rank", help="r.", minimum=1, maximum=65_536)
    prepare_model_for_kbit_training: bool = setting(
        False, label="Prepared for k-bit training", help="Cast everything not in 4 bits to float32."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOnModel(OnModel):
    """The adapters' bottleneck size."""

    bottleneck_size: int = setting(64, label="Bottleneck", help="r.", minimum=1, maximum=65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOnModel(OnModel):
    """The length of the prompt."""

    num_virtual_tokens: int = setting(20, label="Virtual tokens", help="p.", minimum=1, maximum=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixOnModel(PromptOnModel):
    """The length of the prefix. PEFT refuses a prefix with checkpointing."""

    gradient_checkpointing: bool = setting(
        False, label="Gradient checkpointing", help="PEFT refuses it with a prefix, and so does this example."
    )


#: The projections that the lesson adapts, with their names in the Llama family.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

_TRAINING = {f.name for f in fields(Training)}


def request_of(method: MethodName) -> Callable[[Any], dict[str, Any]]:
    """Return the function that builds a method's request from the inputs of an example."""

    def request(typed: Any) -> dict[str, Any]:
        values = {f.name: getattr(typed, f.name) for f in fields(typed)}
        model = values.pop("model")
        training = {name: values.pop(name) for name in tuple(values) if name in _TRAINING}
        if values.get("target_modules") == "attention":
            values["target_modules"] = list(ATTENTION)
        return {"model": model, "method": {"name": method, **values}, "training": training}

    return request


def lines_of(method: MethodName) -> Callable[[Any], tuple[Line, ...]]:
    """Return the function that computes an example's lines: bytes by the rule of thumb and of the training step."""
    request = request_of(method)

    def lines(typed: Any) -> tuple[Line, ...]:
        parsed = parse_request(request(typed))
        exact, textbook = estimate(parsed), estimate(replace(parsed, accounting="textbook"))
        memory, rule = exact.memory, textbook.memory.peak_allocated_bytes
        return (
            Line(
                name="trained parameters",
                formula=METHODS[method].facts.trainable,
                substituted=f"{exact.parameters.trainable:,} of {exact.parameters.total:,}",
                value=exact.parameters.trainable,
                unit="parameters",
            ),
            Line(
                name="by the rule of thumb",
                formula="weights + gradients + Adam's states",
                substituted=" + ".join(part.substituted for part in textbook.memory.components),
                value=rule,
                unit="bytes",
            ),
            Line(
                name="the step's peak",
                formula="all tensors allocated at once",
                substituted=f"in the {memory.peak_phase.replace('_', ' ')}, at {memory.peak_operation}",
                value=memory.peak_allocated_bytes,
                unit="bytes",
                main=True,
            ),
            Line(
                name="the peak relative to the rule",
                formula="peak ÷ rule",
                substituted=f"{memory.peak_allocated_bytes:,} ÷ {rule:,}",
                value=memory.peak_allocated_bytes / rule,
                unit="×",
            ),
            Line(
                name="required of a GPU",
                formula="peak + allocator + CUDA",
                substituted="what nvidia-smi would show",
                value=memory.required_bytes,
                unit="bytes",
            ),
        )

    return lines


#: The input class of the example of each method in the lesson.
SETTINGS: dict[MethodName, type] = {
    "full": OnModel,
    "lora": LowRankOnModel,
    "qlora": QuantizedOnModel,
    "adapter": AdapterOnModel,
    "prefix": PrefixOnModel,
    "prompt": PromptOnModel,
}

ON_MODEL = {
    method: WorkedExample(
        name="model",
        title="On a real model",
        introduction="The same method on a model from the catalogue: the rule of thumb and a training step's peak.",
        settings=settings,
        lines=lines_of(method),
        request=request_of(method),
    )
    for method, settings in SETTINGS.items()
}
