"""A method on a real model: the rule of thumb beside the traced step."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request
from calculator.inputs.settings import setting
from calculator.inputs.training import Training
from calculator.lesson.worked.line import Line, Worked
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import MethodName


@dataclass(frozen=True, slots=True, kw_only=True)
class OnModel:
    """What every method is run with."""

    model: str = setting("meta-llama/Llama-2-7b-hf", label="Model", help="A hub id of the catalogue.")
    micro_batch_size: int = setting(1, label="Micro-batch size", help="B.", minimum=1, maximum=65_536)
    sequence_length: int = setting(
        2048, label="Sequence length", help="S.", minimum=2, maximum=16_777_216, unit="tokens"
    )
    gradient_checkpointing: bool = setting(
        True, label="Gradient checkpointing", help="Recompute each layer in the backward pass."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankOnModel(OnModel):
    """LoRA's and QLoRA's size."""

    r: int = setting(8, label="Rank", help="r.", minimum=1, maximum=65_536)
    target_modules: Literal["attention", "all-linear"] = setting(
        "attention", label="Adapted", help="Q, K, V and O of the Llama family, or every linear layer."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedOnModel(LowRankOnModel):
    """The lesson's 70B run."""

    model: str = setting("meta-llama/Meta-Llama-3-70B", label="Model", help="A hub id of the catalogue.")
    r: int = setting(64, label="Rank", help="r.", minimum=1, maximum=65_536)
    prepare_model_for_kbit_training: bool = setting(
        False, label="Prepared for k-bit training", help="Everything not in 4 bits cast to float32."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOnModel(OnModel):
    """The adapters' size."""

    bottleneck_size: int = setting(64, label="Bottleneck", help="r.", minimum=1, maximum=65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOnModel(OnModel):
    """The prompt's length."""

    num_virtual_tokens: int = setting(20, label="Virtual tokens", help="p.", minimum=1, maximum=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixOnModel(PromptOnModel):
    """The prefix's length; PEFT refuses it with checkpointing."""

    gradient_checkpointing: bool = setting(
        False, label="Gradient checkpointing", help="PEFT refuses it with a prefix, and so does this example."
    )


#: The projections that the lesson adapts, as the Llama family names them.
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

_TRAINING = {f.name for f in fields(Training)}


def request_of(method: MethodName) -> Callable[[Any], dict[str, Any]]:
    """What makes a request for a method of an example's inputs."""

    def request(typed: Any) -> dict[str, Any]:
        values = {f.name: getattr(typed, f.name) for f in fields(typed)}
        model = values.pop("model")
        training = {name: values.pop(name) for name in tuple(values) if name in _TRAINING}
        if values.get("target_modules") == "attention":
            values["target_modules"] = list(ATTENTION)
        return {"model": model, "method": {"name": method, **values}, "training": training}

    return request


def lines_of(method: MethodName) -> Callable[[Any], tuple[Line, ...]]:
    """What answers an example of a method: the textbook's bytes and the step's."""
    request = request_of(method)

    def lines(typed: Any) -> tuple[Line, ...]:
        asked = parse_request(request(typed))
        exact, textbook = estimate(asked), estimate(replace(asked, accounting="textbook"))
        told, rule = exact.memory, textbook.memory.peak_allocated_bytes
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
                formula="every tensor alive at once",
                substituted=f"in the {told.peak_phase.replace('_', ' ')}, at {told.peak_operation}",
                value=told.peak_allocated_bytes,
                unit="bytes",
                main=True,
            ),
            Line(
                name="the peak over the rule",
                formula="peak ÷ rule",
                substituted=f"{told.peak_allocated_bytes:,} ÷ {rule:,}",
                value=told.peak_allocated_bytes / rule,
                unit="×",
            ),
            Line(
                name="required of a card",
                formula="peak + allocator + CUDA",
                substituted="what nvidia-smi would show",
                value=told.required_bytes,
                unit="bytes",
            ),
        )

    return lines


SETTINGS: dict[MethodName, type] = {
    "full": OnModel,
    "lora": LowRankOnModel,
    "qlora": QuantisedOnModel,
    "adapter": AdapterOnModel,
    "prefix": PrefixOnModel,
    "prompt": PromptOnModel,
}

ON_MODEL = {
    method: Worked(
        name="model",
        title="On a real model",
        told="The same method on a model of the catalogue: the rule of thumb beside the peak of the traced step.",
        settings=SETTINGS[method],
        lines=lines_of(method),
        request=request_of(method),
    )
    for method in METHODS
}
