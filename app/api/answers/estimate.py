"""What the API answers: Pydantic models that describe each field and write the calculator's answers as JSON."""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.api.accuracy.accuracy import accuracy
from app.http.problems import ProblemError
from calculator.common.names import ComponentName, PhaseName
from calculator.devices import GPU, Verdict
from calculator.estimate.answer import Estimate
from calculator.methods import Method


class Answer(BaseModel):
    """An answer read off a value of the calculator's."""

    model_config = ConfigDict(from_attributes=True)


def told(description: str, example: Any) -> Any:
    """A field's description and an example of it."""
    return Field(description=description, examples=[example])


def _card_id(card: Any) -> Any:
    return card.id if isinstance(card, GPU) else card


class ModelSummary(Answer):
    """The model that the answer speaks of."""

    id: str | None = told("Its id in the catalogue; null for a config.json.", "meta-llama/Llama-3.1-8B")
    model_type: str | None = told("Its family, as config.json names it.", "llama")
    parameters: int = told("Parameters of the base model, tied ones once.", 8_030_261_248)


class ParameterCounts(Answer):
    """Parameters of the base model, added by the method, trained, and all together."""

    base: int = told("Parameters of the base model.", 8_030_261_248)
    added: int = told("Parameters that the method adds.", 41_943_040)
    trainable: int = told("Parameters that are trained.", 41_943_040)
    total: int = told("Base and added together.", 8_072_204_288)
    trainable_fraction: float = told("The share of all parameters that is trained, 0 to 1.", 0.005196)


class Row(Answer):
    """One kind of storage alive at the peak."""

    name: str = told("What is stored.", "logits")
    count: int = told("How many storages of this kind there are.", 1)
    bytes: int = told("Their bytes together, each rounded up to 512.", 525_336_576)
    formula: str = told("The shape in named dimensions times the bytes of an element.", "B × S × vocab_size × 2")
    substituted: str = told("The formula with its numbers.", "1 × 2,048 × 128,256 × 2")
    dtype: str = told("The data type it is stored in.", "bfloat16")
    source: str = told("Where the rule comes from.", "torch.nn.Linear")


class Component(Answer):
    """A subtotal of the peak."""

    name: ComponentName = told("What the bytes are for.", "base_weights")
    bytes: int = told("Bytes alive at the peak.", 16_060_522_496)
    formula: str = told("How the bytes come about.", "parameters × 2")
    substituted: str = told("The formula with its numbers.", "8,030,261,248 × 2")
    source: str = told("Where the rule comes from.", "torch.dtype.itemsize")
    rows: tuple[Row, ...] = told(
        "The storages that it sums.",
        [
            {
                "name": "logits",
                "count": 1,
                "bytes": 525_336_576,
                "formula": "B × S × vocab_size × 2",
                "substituted": "1 × 2,048 × 128,256 × 2",
                "dtype": "bfloat16",
                "source": "torch.nn.Linear",
            }
        ],
    )


class Phase(Answer):
    """A part of the step."""

    name: PhaseName = told("Which part.", "backward")
    peak_bytes: int = told("The most bytes alive in it.", 9_341_251_584)


class Moment(Answer):
    """A point on the step's timeline."""

    phase: PhaseName = told("The part of the step.", "forward")
    operation: str = told("What ran.", "lm_head")
    bytes: int = told("Bytes alive while it ran.", 9_102_336_000)


class Memory(Answer):
    """What is alive at the step's peak, per device, and what that takes of a card; whole bytes."""

    components: tuple[Component, ...] = told(
        "What is alive at the peak; sums to peak_allocated_bytes.", [{"name": "base_weights", "bytes": 16_060_522_496}]
    )
    phases: tuple[Phase, ...] = told(
        "The most that is alive in each part of the step.", [{"name": "backward", "peak_bytes": 9_341_251_584}]
    )
    peak_phase: PhaseName = told("The part of the step that the peak is in.", "backward")
    peak_operation: str = told("What runs at the peak.", "cross_entropy")
    timeline: tuple[Moment, ...] = told(
        "The bytes alive as the step goes on.", [{"phase": "forward", "operation": "lm_head", "bytes": 9_102_336_000}]
    )
    peak_allocated_bytes: int = told("The live tensors at the peak, each rounded up to 512 bytes.", 9_341_251_584)
    library_workspace_bytes: int = told("What cuBLAS keeps, which max_memory_allocated counts too.", 17_039_360)
    peak_reserved_bytes: int = told("What torch.cuda.max_memory_reserved() reads, workspaces included.", 9_640_607_744)
    required_bytes: int = told("Reserved memory and the CUDA context: what nvidia-smi shows.", 10_087_301_120)
    overheads: tuple[Row, ...] = told(
        "What required_bytes has beyond peak_allocated_bytes.",
        [
            {
                "name": "CUDA context",
                "count": 1,
                "bytes": 446_693_376,
                "formula": "",
                "substituted": "",
                "dtype": "",
                "source": "measured",
            }
        ],
    )


class Fit(Answer):
    """The plan held against the device."""

    gpu: Annotated[str | None, BeforeValidator(_card_id)] = told(
        "The card's catalogue id; null for a size.", "rtx-4090"
    )
    usable_bytes: int = told("What the card offers a process.", 25_250_758_656)
    verdict: Verdict = told("Whether it fits; tight where that depends on fragmentation.", "fits")
    headroom_bytes: int = told("Usable less required; negative where it does not fit.", 15_163_457_536)
    gpus_needed: int = told("The least number of such cards whose memory together holds the plan.", 1)
    assumption: str = told("What usable_bytes rests on.", "GeForce RTX 4090 offers a process 24,081 MiB")
    advice: str | None = told("What helps a tight plan.", None)


class StatisticErrors(Answer):
    """The errors of measured figures of one statistic; an error is the estimate over what was measured, less one."""

    statistic: str = told(
        "What was read: max_memory_allocated, memory_allocated at a point of a step, max_memory_reserved, nvidia_smi.",
        "max_memory_allocated",
    )
    figures: int = told("How many figures.", 5)
    configurations: int = told("How many configurations they are of.", 4)
    lowest_error: float = told("The lowest error; below 0 where the estimate was too low.", -0.005194)
    highest_error: float = told("The highest error.", -0.005045)
    median_absolute_error: float = told("The median of their absolute values.", 0.00517)


class Interval(Answer):
    """Where the required memory of equal runs would have been measured."""

    lowest_bytes: int = told("required_bytes, less the highest error.", 9_640_607_744)
    highest_bytes: int = told("required_bytes, less the lowest error.", 9_740_607_744)


class Accuracy(Answer):
    """How far estimates of the method were from measurements, from the committed results (GET /api/v1/validation)."""

    method: str = told("The method whose measurements these are; DoRA goes by its own name.", "lora")
    sentence: str = told("The same in words.", "Estimates of LoRA were held against 17 measured figures: ...")
    errors: tuple[StatisticErrors, ...] = told("The errors by statistic; empty where nothing was measured.", [])
    interval: Interval | None = told(
        "required_bytes with the errors that nvidia-smi's figures of the method had, which are of replays; null where"
        " there are none, and where reserved memory is by the rule.",
        None,
    )


class EstimateAnswer(Answer):
    """The whole answer to one plan."""

    model: ModelSummary = told("What is fine-tuned.", {"id": "meta-llama/Llama-3.1-8B"})
    method: dict[str, Any] = told("The method with all its settings.", {"name": "lora", "r": 16})
    accounting: Literal["exact", "textbook"] = told("How it is accounted for.", "exact")
    reserved: Literal["rule", "replay"] = told("How peak_reserved_bytes was found.", "rule")
    parameters: ParameterCounts = told("How many parameters there are and are trained.", {"trainable": 41_943_040})
    memory: Memory = told("What one training step needs.", {"peak_allocated_bytes": 9_341_251_584})
    fit: Fit | None = told("The verdict; null where no device was given.", {"verdict": "fits"})
    saved_bytes: int = told(
        "The file of what is trained, less its header: an adapter, or for full fine-tuning a model.", 167_772_160
    )
    assumptions: tuple[str, ...] = told("What the figures rest on.", ["PyTorch 2.13, transformers 5, peft 0.21"])
    warnings: tuple[str, ...] = told("Risks worth knowing.", [])
    accuracy: Accuracy = told("How far estimates like this one were from measurements.", {"method": "lora"})

    @model_validator(mode="before")
    @classmethod
    def _with_accuracy(cls, plan: Any) -> Any:
        if not isinstance(plan, Estimate):
            return plan
        said = {field.name: getattr(plan, field.name) for field in fields(plan)}
        return {**said, "method": settings(plan.method), "accuracy": accuracy(plan)}


def settings(method: Method) -> dict[str, Any]:
    """A method with all its settings, as a request would have it."""
    return {"name": method.name, **asdict(method)}


class AlternativeAnswer(Answer):
    """The nearest plan that is not refused."""

    changes: dict[str, Any] = told("Settings that differ, by their paths.", {"training.gradient_checkpointing": False})
    estimate: EstimateAnswer = told("Its estimate.", {"memory": {"peak_allocated_bytes": 9_341_251_584}})


class ComparisonRowAnswer(Answer):
    """One method of a comparison."""

    method: dict[str, Any] = told("The method with all its settings.", {"name": "lora", "r": 16})
    label: str = told("The method's name in words.", "LoRA")
    trainable: str = told("What it trains, as a formula.", "r · (in_features + out_features) per adapted matrix")
    inference_overhead: str = told("What it costs when the model is used.", "none once merged")
    mergeable: bool | None = told("Whether it can be merged into the weights; null where there is nothing to.", True)
    best_for: str = told("Where it is at its best.", "most fine-tuning")
    source: str = told("Where these words come from.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")
    estimate: EstimateAnswer | None = told("The answer; null where the combination is refused.", None)
    problems: tuple[ProblemError, ...] = told("Why it is refused.", [])
    alternative: AlternativeAnswer | None = told("The nearest plan that is not refused, if there is one.", None)


class CompareAnswer(Answer):
    """The methods side by side."""

    rows: tuple[ComparisonRowAnswer, ...] = told("A row a method, in the order asked for.", [{"label": "LoRA"}])


class NotExpressedAnswer(Answer):
    """A setting of the plan that an exported file takes otherwise."""

    loc: str = told("Its path in the request.", "training.autocast")
    value: Any = told("What the plan says.", None)
    why: str = told("What the tool does instead.", "axolotl trains bfloat16 weights under autocast (AMP) in bfloat16")


class ExportAnswer(Answer):
    """A file that runs a plan."""

    filename: str = told("What to call it.", "train.py")
    media_type: str = told("Its media type.", "text/x-python")
    content: str = told("Its text, with the estimate in its head.", "# QLoRA of meta-llama/Llama-3.1-8B. ...")
    not_expressed: tuple[NotExpressedAnswer, ...] = told(
        "Where it differs from the plan.", [{"loc": "training.autocast", "value": None}]
    )


class NotUnderstoodAnswer(Answer):
    """A key of an imported file that the request does not hold as it stands there."""

    key: str = told("The key.", "sample_packing")
    value: Any = told("Its value; null where it is left out.", True)
    why: str = told(
        "What about it is not held, and what is taken instead.",
        "packed rows are taken for full sequences, one after the other",
    )


class ImportAnswer(Answer):
    """A file as a request."""

    format: str = told("What the file was read as.", "axolotl")
    request: dict[str, Any] = told("A request that the estimate takes.", {"model": "meta-llama/Llama-3.1-8B"})
    not_understood: tuple[NotUnderstoodAnswer, ...] = told(
        "What the request does not hold.", [{"key": "sample_packing", "value": True}]
    )
    without_effect: tuple[str, ...] = told("Keys that a step's memory does not depend on.", ["learning_rate"])


class Health(BaseModel):
    """That the program runs."""

    status: str = told("Always ok, where there is an answer at all.", "ok")
    version: str = told("The program's version.", "0.1.0")
