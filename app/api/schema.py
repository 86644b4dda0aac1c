"""The request's Pydantic models, made from the calculator's declarations; they document and shape, it validates."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from app.interop.exports import FORMATS
from calculator.compare.methods import MOST_METHODS
from calculator.estimate.request import Choices
from calculator.inference.settings import Serving
from calculator.inputs.settings import Declared, declared
from calculator.inputs.training import Device, Training
from calculator.methods import METHODS, Method
from calculator.plan.needs import Needs
from calculator.plan.request import MOST_OF_A_KIND

STRICT = ConfigDict(extra="forbid", strict=True)


def example(declaration: Declared) -> Any:
    """A value that stands for an input in documents."""
    if declaration.setting.example is not None:
        return declaration.setting.example
    if declaration.default is not None:
        return declaration.default
    return declaration.choices[0] if declaration.choices else declaration.setting.minimum


def field(declaration: Declared) -> tuple[Any, Any]:
    """A declared input as the type and the Field of a Pydantic model."""
    unit = f" In {declaration.setting.unit}." if declaration.setting.unit else ""
    info = Field(
        default=declaration.default,
        title=declaration.setting.label,
        description=f"{declaration.setting.help}{unit}",
        examples=[example(declaration)],
    )
    return _jsonable(declaration.type, _limits(declaration)), info


def model(title: str, cls: type, /, **leading: Any) -> type[BaseModel]:
    """The Pydantic model of a dataclass of settings, with any fields that come before them."""
    fields = {**leading, **{declaration.name: field(declaration) for declaration in declared(cls)}}
    made: type[BaseModel] = create_model(title, __config__=STRICT, __doc__=_summary(cls), **fields)
    return made


def _limits(declaration: Declared) -> Any:
    low, high = declaration.setting.minimum, declaration.setting.maximum
    return Field(ge=low, le=high) if low is not None or high is not None else None


def _jsonable(kind: Any, limits: Any) -> Any:
    """The type with lists for tuples, and the limits on its number."""
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        named = Annotated[str, Field(min_length=1)] if item is str else item
        return Annotated[list[named], Field(min_length=1)]  # type: ignore[valid-type]
    if kind in (int, float):
        return Annotated[kind, limits] if limits else kind
    if get_origin(kind) is Literal or not get_args(kind):
        return kind
    return reduce(or_, (_jsonable(member, limits) for member in get_args(kind)))


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _method(cls: type[Method]) -> type[BaseModel]:
    kind = Literal[cls.name]  # type: ignore[name-defined]
    name = Field(title="Method", description=_summary(cls), examples=[cls.name])
    return model(f"{cls.__name__}Method", cls, name=(kind, name))


TrainingModel = model("Training", Training)
DeviceModel = model("Device", Device)
METHOD_MODELS: dict[str, type[BaseModel]] = {name: _method(cls) for name, cls in METHODS.items()}
MethodModel: Any = Annotated[reduce(or_, METHOD_MODELS.values()), Field(discriminator="name")]


class ModelConfig(BaseModel):
    """A model that the catalogue lacks, by its `config.json`."""

    model_config = STRICT

    config: dict[str, Any] = Field(
        description="The content of a config.json, with its model_type.",
        examples=[{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}],
    )


class ModelParameters(BaseModel):
    """A model of which only the size is known; textbook accounting takes it."""

    model_config = STRICT

    parameters: int = Field(ge=1, le=10**15, description="The number of parameters.", examples=[70_000_000_000])


_CATALOGUE_ID = Field(min_length=1, title="Catalogue id", description="A model's hub id, alias or hub URL.")
_MODEL = (
    Annotated[str, _CATALOGUE_ID] | ModelConfig | ModelParameters,
    Field(
        title="Model",
        description="What is fine-tuned: a catalogue id, a config.json, or with textbook accounting a bare size.",
        examples=["meta-llama/Llama-3.1-8B"],
    ),
)
_TRAINING = Field(
    default_factory=TrainingModel,
    title="Training",
    description="How the run trains.",
    examples=[{"micro_batch_size": 4}],
)
_DEVICE = Field(
    default_factory=DeviceModel,
    title="Device",
    description="The card or cards that the plan should fit; leave it out to ask for no verdict.",
    examples=[{"gpu": "rtx-4090"}],
)

_METHOD = Field(title="Method", description="How it is fine-tuned.", examples=[{"name": "qlora", "r": 16}])

EstimateRequest = model(
    "EstimateRequest",
    Choices,
    model=_MODEL,
    method=(MethodModel, _METHOD),
    training=(TrainingModel, _TRAINING),
    device=(DeviceModel, _DEVICE),
)
EstimateRequest.__doc__ = "One plan: a model, a method, how it trains and on what device."

FormatName: Any = Literal[tuple(FORMATS)]

ExportRequest = model(
    "ExportRequest",
    Choices,
    format=(
        FormatName,
        Field(title="Format", description="What the plan is exported as.", examples=["peft"]),
    ),
    model=_MODEL,
    method=(MethodModel, _METHOD),
    training=(TrainingModel, _TRAINING),
    device=(DeviceModel, _DEVICE),
)
ExportRequest.__doc__ = "One plan, and the format of the file that shall run it."

CompareRequest = model(
    "CompareRequest",
    Choices,
    model=_MODEL,
    methods=(
        Annotated[list[MethodModel], Field(min_length=1, max_length=MOST_METHODS)],
        Field(
            default_factory=lambda: [{"name": name} for name in METHODS],
            title="Methods",
            description="The methods to hold against each other; left out, all of them with PEFT's defaults.",
            examples=[[{"name": "lora", "r": 16}, {"name": "qlora", "r": 16}]],
        ),
    ),
    training=(TrainingModel, _TRAINING),
    device=(DeviceModel, _DEVICE),
)
CompareRequest.__doc__ = "One model, training and device for several methods."

ServingModel = model("Serving", Serving)

_PLANNED = Annotated[str, _CATALOGUE_ID] | ModelConfig

InferenceRequest: type[BaseModel] = create_model(
    "InferenceRequest",
    __config__=STRICT,
    __doc__="A tuned model, how it is served, and on what device.",
    model=(
        _PLANNED,
        Field(
            title="Model",
            description="What is served: a catalogue id or a config.json.",
            examples=["meta-llama/Llama-3.1-8B"],
        ),
    ),
    method=(
        MethodModel,
        Field(
            default_factory=lambda: {"name": "full"},
            title="Method",
            description="How it was tuned; left out, the model as it is.",
            examples=[{"name": "lora", "r": 16}],
        ),
    ),
    serving=(
        ServingModel,
        Field(
            default_factory=ServingModel,
            title="Serving",
            description="How it is served.",
            examples=[{"batch_size": 4, "tasks": 20}],
        ),
    ),
    device=(DeviceModel, _DEVICE),
)

NeedsModel = model("Needs", Needs)

_PLAN: dict[str, Any] = {
    "model": (
        _PLANNED | None,
        Field(
            default=None,
            title="Model",
            description="What is fine-tuned: a catalogue id or a config.json.",
            examples=["meta-llama/Llama-3.1-8B"],
        ),
    ),
    "models": (
        Annotated[list[_PLANNED], Field(min_length=1, max_length=MOST_OF_A_KIND)] | None,
        Field(
            default=None,
            title="Models",
            description="Instead of model: a shortlist, each of which is planned for.",
            examples=[["meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1"]],
        ),
    ),
    "device": (
        DeviceModel | None,
        Field(default=None, title="Device", description="The card at hand.", examples=[{"gpu": "rtx-4090"}]),
    ),
    "devices": (
        Annotated[list[DeviceModel], Field(min_length=1, max_length=MOST_OF_A_KIND)] | None,  # type: ignore[valid-type]
        Field(
            default=None,
            title="Devices",
            description="Instead of device: several to choose from, each of which is planned for.",
            examples=[[{"gpu": "rtx-4090"}, {"gpu": "l40s"}]],
        ),
    ),
    "needs": (
        NeedsModel,
        Field(
            default_factory=NeedsModel,
            title="Needs",
            description="What the run must do, and what is preferred.",
            examples=[{"tasks": 20, "switch_per_request": True}],
        ),
    ),
}

PlanRequest: type[BaseModel] = create_model("PlanRequest", __config__=STRICT, **_PLAN)
PlanRequest.__doc__ = "Models, devices and needs: one model or a list of them, one device or a list of them."
