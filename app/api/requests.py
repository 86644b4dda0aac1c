"""The request models of every POST endpoint."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from app.api.answers.sweep import Format
from app.api.schema import STRICT, model, summary
from app.interop import imports
from app.interop.exports import FORMATS
from app.interop.imports.python_calls import LONGEST as LONGEST_SCRIPT
from app.interop.imports.text import LONGEST
from calculator.comparison.methods import MOST_METHODS
from calculator.diagnosis.message import LONGEST as LONGEST_LOG
from calculator.estimation.request import Choices, ReservedMemory
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.inputs.run import RunSettings
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.limit_search.bounds import SolveFor
from calculator.limit_search.sweep import MAX_POINTS
from calculator.methods import METHODS, USUAL_METHODS, Method
from calculator.planning.needs import Needs
from calculator.planning.request import MOST_OF_A_KIND
from calculator.planning.trainer_settings import SETTINGS


def _method_model(cls: type[Method]) -> type[BaseModel]:
    kind = Literal[cls.name]  # type: ignore[name-defined]
    name = Field(title="Method", description=summary(cls), examples=[cls.name])
    return model(f"{cls.__name__}Method", cls, name=(kind, name))


TrainingModel = model("Training", Training)
DeviceModel = model("Device", Device)
StackModel = model("Stack", StackVersions)
ServingModel = model("Serving", Serving)
RunModel = model("Run", RunSettings)
NeedsModel = model("Needs", Needs)
METHOD_MODELS: dict[str, type[BaseModel]] = {name: _method_model(cls) for name, cls in METHODS.items()}
MethodModel: Any = Annotated[reduce(or_, METHOD_MODELS.values()), Field(discriminator="name")]
FormatName: Any = Literal[tuple(FORMATS)]
ImportFormatName: Any = Literal[tuple(imports.FORMATS)]


class ModelConfig(BaseModel):
    """A model that is not in the catalogue, given by its `config.json`."""

    model_config = STRICT

    config: dict[str, Any] = Field(
        description="The content of a config.json, with its model_type.",
        examples=[{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}],
    )


class ModelParameters(BaseModel):
    """A model given by its number of parameters. Only textbook accounting accepts it."""

    model_config = STRICT

    parameters: int = Field(ge=1, le=10**15, description="The number of parameters.", examples=[70_000_000_000])


_CATALOGUE_ID = Field(min_length=1, title="Catalogue id", description="A model's hub id, alias or hub URL.")
_BASE_MODEL = Annotated[str, _CATALOGUE_ID] | ModelConfig

_MODEL = (
    Annotated[str, _CATALOGUE_ID] | ModelConfig | ModelParameters,
    Field(
        title="Model",
        description="The model to fine-tune: a catalogue id, a config.json, or, with textbook accounting, a number of"
        " parameters.",
        examples=["meta-llama/Llama-3.1-8B"],
    ),
)
_METHOD = (
    MethodModel,
    Field(title="Method", description="The fine-tuning method.", examples=[{"name": "qlora", "r": 16}]),
)
_TRAINING = (
    TrainingModel,
    Field(
        default_factory=TrainingModel,
        title="Training",
        description="The training settings.",
        examples=[{"micro_batch_size": 4}],
    ),
)
_DEVICE = (
    DeviceModel,
    Field(
        default_factory=DeviceModel,
        title="Device",
        description="The GPU or GPUs that the run should fit. Without a device there is no verdict.",
        examples=[{"gpu": "rtx-4090"}],
    ),
)
_STACK = (
    StackModel,
    Field(
        default_factory=StackModel,
        title="Stack",
        description="The releases of the libraries. The error for a release that is not modeled lists those that are.",
        examples=[{"torch": "2.13"}],
    ),
)

EstimateRequest = model(
    "EstimateRequest", Choices, model=_MODEL, method=_METHOD, training=_TRAINING, device=_DEVICE, stack=_STACK
)
EstimateRequest.__doc__ = "One run: a model, a fine-tuning method, training settings and a device."

ExportRequest = model(
    "ExportRequest",
    Choices,
    format=(FormatName, Field(title="Format", description="The format of the exported file.", examples=["peft"])),
    model=_MODEL,
    method=_METHOD,
    training=_TRAINING,
    device=_DEVICE,
    stack=_STACK,
)
ExportRequest.__doc__ = "One run, and the format of the file to export."

LimitsRequest = create_model(
    "LimitsRequest",
    __base__=EstimateRequest,
    __doc__="One run with its device, and the setting to solve for.",
    solve_for=(
        SolveFor,
        Field(
            title="Solve for",
            description="The setting whose largest value is searched. Its value in the request is tried like any other."
            " With count, the fewest GPUs (device.count) are searched on which a run with device.sharding fits.",
            examples=["r"],
        ),
    ),
)

RunRequest = create_model(
    "RunRequest",
    __base__=EstimateRequest,
    __doc__="One run with its device, and what it does in addition to its training steps.",
    run=(
        RunModel,
        Field(
            default_factory=RunModel,
            title="Run",
            description="Evaluation, checkpoints and merging, named as in TrainingArguments, Trainer and PEFT.",
            examples=[{"eval_strategy": "epoch", "compute_metrics": True}],
        ),
    ),
)

CompareRequest = model(
    "CompareRequest",
    Choices,
    model=_MODEL,
    methods=(
        Annotated[list[MethodModel], Field(min_length=1, max_length=MOST_METHODS)],
        Field(
            default_factory=lambda: [{"name": name} for name in USUAL_METHODS],
            title="Methods",
            description="The methods to compare. Without them, those whose quality is documented are compared, with"
            " PEFT's defaults.",
            examples=[[{"name": "lora", "r": 16}, {"name": "qlora", "r": 16}]],
        ),
    ),
    training=_TRAINING,
    device=_DEVICE,
    stack=_STACK,
)
CompareRequest.__doc__ = "One model, training and device, and several methods."


class SweepRequest(BaseModel):
    """One request, and lists of values for some of its fields."""

    model_config = STRICT

    request: dict[str, Any] = Field(
        description="A request of POST /api/v1/estimate. It may omit the fields that the grid sets.",
        examples=[{"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora"}}],
    )
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1,
        description="Lists of values for fields of the request, by dotted path. Every combination is one point, at most"
        f" {MAX_POINTS:,} of them. The values of the last field vary fastest.",
        examples=[{"training.sequence_length": [1024, 2048], "method.r": [8, 16]}],
    )
    format: Format | None = Field(
        default=None,
        description="The format of the rows. Without it, the Accept header decides; the default is NDJSON.",
        examples=["csv"],
    )


class ImportRequest(BaseModel):
    """Another tool's file, and what the file does not contain."""

    model_config = STRICT

    content: str | dict[str, Any] = Field(
        description=f"The text of the file (at most {LONGEST:,} characters), a command line of TRL, a script or"
        f" notebook (at most {LONGEST_SCRIPT:,}), or the file's content as an object.",
        examples=["base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 16\n"],
    )
    format: ImportFormatName | None = Field(
        default=None, description="The tool that the file is for. Without it, the keys decide.", examples=["axolotl"]
    )
    model: str | ModelConfig | None = Field(
        default=None,
        description="A catalogue id or a config.json to use instead of the model that the file names.",
        examples=["meta-llama/Llama-3.1-8B"],
    )


class DiagnoseRequest(BaseModel):
    """An out-of-memory message, and the run that it ended: a request, or another tool's file."""

    model_config = STRICT

    message: str | None = Field(
        default=None,
        description=f"The text of torch.OutOfMemoryError, or a log with it; at most {LONGEST_LOG:,} characters.",
        examples=["CUDA out of memory. Tried to allocate 384.00 MiB (GPU 0; 15.90 GiB total capacity; ..."],
    )
    snapshot: str | None = Field(
        default=None,
        description="A pickle of torch.cuda.memory._dump_snapshot(), in Base64. Only plain values are read from it:"
        " nothing is imported or run. If it records the request that failed, no message is needed.",
        examples=["gASVCwAAAAAAAAB9lIwIc2VnbWVudHOUXZRzLg=="],
    )
    request: dict[str, Any] | None = Field(
        default=None,
        description="A request of POST /api/v1/estimate or POST /api/v1/run: the run. If `content` is given too, its"
        " settings replace those of the file.",
        examples=[{"model": "openai-community/gpt2", "method": {"name": "full"}}],
    )
    content: str | dict[str, Any] | None = Field(
        default=None,
        description="A file that describes the run, as in POST /api/v1/import.",
        examples=["base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 16\n"],
    )
    format: ImportFormatName | None = Field(
        default=None, description="The tool that the file is for. Without it, the keys decide.", examples=["axolotl"]
    )


InferenceRequest = model(
    "InferenceRequest",
    ReservedMemory,
    model=(
        _BASE_MODEL,
        Field(
            title="Model",
            description="The base model to serve: a catalogue id or a config.json.",
            examples=["meta-llama/Llama-3.1-8B"],
        ),
    ),
    method=(
        MethodModel,
        Field(
            default_factory=lambda: {"name": "full"},
            title="Method",
            description="The method that fine-tuned it. Without a method, the base model is served.",
            examples=[{"name": "lora", "r": 16}],
        ),
    ),
    serving=(
        ServingModel,
        Field(
            default_factory=ServingModel,
            title="Serving",
            description="The serving settings.",
            examples=[{"batch_size": 4, "tasks": 20}],
        ),
    ),
    device=_DEVICE,
    stack=_STACK,
)
InferenceRequest.__doc__ = "A fine-tuned model, how it is served, and on what device."

_PLAN: dict[str, Any] = {
    "model": (
        _BASE_MODEL | None,
        Field(
            default=None,
            title="Model",
            description="The model to fine-tune: a catalogue id or a config.json.",
            examples=["meta-llama/Llama-3.1-8B"],
        ),
    ),
    "models": (
        Annotated[list[_BASE_MODEL], Field(min_length=1, max_length=MOST_OF_A_KIND)] | None,
        Field(
            default=None,
            title="Models",
            description="Several models, instead of `model`. Each gets a plan of its own.",
            examples=[["meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1"]],
        ),
    ),
    "device": (
        DeviceModel | None,
        Field(
            default=None,
            title="Device",
            description="The GPU or GPUs. Of several GPUs without `sharding`, Headroom chooses the sharding.",
            examples=[{"gpu": "rtx-4090"}],
        ),
    ),
    "devices": (
        Annotated[list[DeviceModel], Field(min_length=1, max_length=MOST_OF_A_KIND)] | None,  # type: ignore[valid-type]
        Field(
            default=None,
            title="Devices",
            description="Several devices, instead of `device`. Each gets a plan of its own.",
            examples=[[{"gpu": "rtx-4090"}, {"gpu": "l40s"}]],
        ),
    ),
    "training": (
        TrainingModel,
        Field(
            default_factory=TrainingModel,
            title="Training",
            description=f"The trainer and its settings: {', '.join(SETTINGS)}. Headroom chooses the other settings.",
            examples=[{"trainer": "trl-sft", "autocast": "bfloat16"}],
        ),
    ),
    "stack": _STACK,
    "needs": (
        NeedsModel,
        Field(
            default_factory=NeedsModel,
            title="Needs",
            description="What the run must do, and what to prefer.",
            examples=[{"tasks": 20, "switch_per_request": True}],
        ),
    ),
}

PlanRequest = model("PlanRequest", ReservedMemory, **_PLAN)
PlanRequest.__doc__ = "One or several models, one or several devices, and needs."
