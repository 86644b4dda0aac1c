"""Answer of `POST /api/v1/estimate`, and the parts that other answers share with it."""

from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal

from pydantic import model_validator

from app.api.accuracy.accuracy import accuracy
from app.api.answers.answer import Answer, described
from app.api.answers.estimate_accuracy import Accuracy
from app.api.answers.fit import DeviceFit, Fit, ReplayedFit
from app.api.answers.memory import Memory
from calculator.common.names import TaskName
from calculator.estimation.answer import Estimate
from calculator.estimation.traced.grade import EngineName, Grade
from calculator.methods import Method


class ModelSummary(Answer):
    """The base model."""

    id: str | None = described("The catalogue id; null for a config.json.", "meta-llama/Llama-3.1-8B")
    model_type: str | None = described("The model family, as config.json names it.", "llama")
    parameters: int = described("Number of parameters; tied weights count once.", 8_030_261_248)
    task: TaskName = described("What it is trained for, which decides its head.", "causal_lm")


class ParameterCounts(Answer):
    """Numbers of parameters: base model, added, trainable and total."""

    base: int = described("Parameters of the base model.", 8_030_261_248)
    added: int = described("Parameters that the method adds.", 41_943_040)
    trainable: int = described("Parameters that are trained.", 41_943_040)
    total: int = described("Base and added parameters together.", 8_072_204_288)
    trainable_fraction: float = described("Trainable parameters divided by all parameters, 0 to 1.", 0.005196)


class CollectiveAnswer(Answer):
    """The collectives of one kind in a step."""

    name: str = described("The collective, as in torch.distributed.", "all_reduce")
    ranks: int = described("The number of GPUs that take part.", 4)
    payload_bytes: int = described("The bytes of the full tensors that are reduced or gathered.", 167_772_160)
    sent_bytes: int = described(
        "The bytes that each GPU sends to others, and receives, by the ring algorithm.", 251_658_240
    )
    node_sent_bytes: int = described(
        "The bytes that each node sends to another, and receives, by the ring algorithm; 0 on one node.", 0
    )
    formula: str = described("The formula of sent_bytes.", "2 × (count - 1) / count × gradients")
    substituted: str = described("The formula with numbers.", "2 × 3 / 4 × 167,772,160")
    source: str = described("Source of the formula.", "github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md")


class TraceAnswer(Answer):
    """The trace that an answer is from."""

    versions: dict[str, str] = described(
        "The releases of the libraries whose step ran.", {"torch": "2.13.0", "transformers": "5.24.0"}
    )
    seconds: float = described("The duration of the trace, without the import of the libraries.", 6.2)
    unchecked_operations: tuple[str, ...] = described(
        "Operations that allocate memory in this step and in no step that the calculator models. Whether they "
        "need scratch memory on a GPU was not checked.",
        ["convolution"],
    )
    kernel_packages: dict[str, tuple[str, ...]] = described(
        "Packages whose kernels replace functions of this model if they are installed, with these functions. The "
        "figures are for a run without them.",
        {"flash-linear-attention": ["chunk_gated_delta_rule"]},
    )
    guesses: tuple[str, ...] = described(
        "Sentences on the values that a trace does not have and that were guessed.", ["Choices are spread evenly."]
    )


class EstimateAnswer(Answer):
    """The memory, parameters and verdict of one run."""

    model: ModelSummary = described("The base model that is fine-tuned.", {"id": "meta-llama/Llama-3.1-8B"})
    method: dict[str, Any] = described("The method with every setting.", {"name": "lora", "r": 16})
    accounting: Literal["exact", "textbook"] = described("The accounting that was used.", "exact")
    reserved: Literal["rule", "replay"] = described("How peak_reserved_bytes was computed.", "replay")
    parameters: ParameterCounts = described("Numbers of parameters.", {"trainable": 41_943_040})
    memory: Memory = described("The memory of one training step.", {"peak_allocated_bytes": 9_341_251_584})
    fit: Fit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})
    saved_bytes: int = described(
        "Size of a checkpoint of the trained parameters, without the file's header: an adapter, or the whole model"
        " for full fine-tuning.",
        167_772_160,
    )
    assumptions: tuple[str, ...] = described("What the figures assume.", ["PyTorch 2.13, transformers 5, peft 0.21"])
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])
    communication: tuple[CollectiveAnswer, ...] | None = described(
        "What each GPU sends in a step, by collective; null for a run on one GPU.", None
    )
    engine: EngineName = described(
        "What computed the figures: the calculator, or a trace of the real step.", "calculator"
    )
    grade: Grade | None = described(
        "How reliable the figures are, the most reliable first: from the calculator; from the calculator, from source"
        " that no trace was compared with; from a trace whose operations are all validated; from one with operations"
        " whose scratch memory on a GPU is unchecked; from a trace of a model that a kernel package changes. Null with"
        " textbook accounting.",
        "modelled",
    )
    trace: TraceAnswer | None = described("The trace that the figures are from; null for the calculator's.", None)
    accuracy: Accuracy = described("How much similar estimates differed from measurements.", {"method": "lora"})

    @model_validator(mode="before")
    @classmethod
    def _with_accuracy(cls, value: Any) -> Any:
        if not isinstance(value, Estimate):
            return value
        return {
            **dict(_values(value)),
            **value.remarks()._asdict(),
            "saved_bytes": value.saved_bytes,
            "method": settings(value.method),
            "accuracy": accuracy(value),
        }


class ComparedEstimateAnswer(EstimateAnswer):
    """The memory, parameters and verdict of one of several runs."""

    fit: ReplayedFit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})


class SingleEstimateAnswer(EstimateAnswer):
    """The memory, parameters and verdict of one run, and what happens at the device's limit."""

    fit: DeviceFit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})


def settings(method: Method) -> dict[str, Any]:
    """Return a method with every setting, as a request spells it."""
    return {"name": method.name, **{name: _plain(value) for name, value in _values(method)}}


def _values(value: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(value, name)) for name in _names(type(value))]  # type: ignore[arg-type]  # a class is hashable


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple([field.name for field in fields(kind)])


_JSON = (str, int, float, NoneType)


def _plain(value: Any) -> Any:
    """Return a setting as `dataclasses.asdict` does. Settings are never changed, so nothing is copied."""
    if isinstance(value, _JSON):
        return value
    return {name: _plain(part) for name, part in _values(value)} if is_dataclass(value) else value
