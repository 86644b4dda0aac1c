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


def described(description: str, example: Any) -> Any:
    """A field's description and an example of it."""
    return Field(description=description, examples=[example])


def _card_id(card: Any) -> Any:
    return card.id if isinstance(card, GPU) else card


class ModelSummary(Answer):
    """The model that the answer speaks of."""

    id: str | None = described("Its id in the catalogue; null for a config.json.", "meta-llama/Llama-3.1-8B")
    model_type: str | None = described("Its family, as config.json names it.", "llama")
    parameters: int = described("Parameters of the base model, tied ones once.", 8_030_261_248)


class ParameterCounts(Answer):
    """Parameters of the base model, added by the method, trained, and all together."""

    base: int = described("Parameters of the base model.", 8_030_261_248)
    added: int = described("Parameters that the method adds.", 41_943_040)
    trainable: int = described("Parameters that are trained.", 41_943_040)
    total: int = described("Base and added together.", 8_072_204_288)
    trainable_fraction: float = described("The share of all parameters that is trained, 0 to 1.", 0.005196)


class Row(Answer):
    """One kind of storage alive at the peak."""

    name: str = described("What is stored.", "logits")
    count: int = described("How many storages of this kind there are.", 1)
    bytes: int = described("Their bytes together, each rounded up to 512.", 525_336_576)
    formula: str = described("The shape in named dimensions times the bytes of an element.", "B × S × vocab_size × 2")
    substituted: str = described("The formula with its numbers.", "1 × 2,048 × 128,256 × 2")
    dtype: str = described("The data type it is stored in.", "bfloat16")
    source: str = described("Where the rule comes from.", "torch.nn.Linear")


class Component(Answer):
    """A subtotal of the peak."""

    name: ComponentName = described("What the bytes are for.", "base_weights")
    bytes: int = described("Bytes alive at the peak.", 16_060_522_496)
    formula: str = described("How the bytes come about.", "parameters × 2")
    substituted: str = described("The formula with its numbers.", "8,030,261,248 × 2")
    source: str = described("Where the rule comes from.", "torch.dtype.itemsize")
    rows: tuple[Row, ...] = described(
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

    name: PhaseName = described("Which part.", "backward")
    peak_bytes: int = described("The most bytes alive in it.", 9_341_251_584)


class Moment(Answer):
    """A point on the step's timeline."""

    phase: PhaseName = described("The part of the step.", "forward")
    operation: str = described("What ran.", "lm_head")
    bytes: int = described("Bytes alive while it ran.", 9_102_336_000)


class Memory(Answer):
    """What is alive at the step's peak, per device, and what that takes of a card; whole bytes."""

    components: tuple[Component, ...] = described(
        "What is alive at the peak; sums to peak_allocated_bytes.", [{"name": "base_weights", "bytes": 16_060_522_496}]
    )
    phases: tuple[Phase, ...] = described(
        "The most that is alive in each part of the step.", [{"name": "backward", "peak_bytes": 9_341_251_584}]
    )
    peak_phase: PhaseName = described("The part of the step that the peak is in.", "backward")
    peak_operation: str = described("What runs at the peak.", "cross_entropy")
    timeline: tuple[Moment, ...] = described(
        "The bytes alive as the step goes on.", [{"phase": "forward", "operation": "lm_head", "bytes": 9_102_336_000}]
    )
    peak_allocated_bytes: int = described("The live tensors at the peak, each rounded up to 512 bytes.", 9_341_251_584)
    library_workspace_bytes: int = described("What cuBLAS keeps, which max_memory_allocated counts too.", 17_039_360)
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 9_640_607_744
    )
    required_bytes: int = described("Reserved memory and the CUDA context: what nvidia-smi shows.", 10_087_301_120)
    overheads: tuple[Row, ...] = described(
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

    gpu: Annotated[str | None, BeforeValidator(_card_id)] = described(
        "The card's catalogue id; null for a size.", "rtx-4090"
    )
    usable_bytes: int = described("The memory that a process can use on the card.", 25_250_758_656)
    verdict: Verdict = described("Whether it fits; tight where that depends on fragmentation.", "fits")
    headroom_bytes: int = described("Usable less required; negative where it does not fit.", 15_163_457_536)
    gpus_needed: int = described(
        "A lower bound on the number of such cards. More than one requires sharding: without it, each needs all.", 1
    )
    assumption: str = described("Where usable_bytes comes from.", "A process can use 24,081 MiB of GeForce RTX 4090")
    advice: str | None = described("What helps a tight plan.", None)


class StatisticErrors(Answer):
    """The errors of measured figures of one statistic; an error is the estimate over what was measured, less one."""

    statistic: str = described(
        "What was read: max_memory_allocated, memory_allocated at a point of a step, max_memory_reserved, nvidia_smi.",
        "max_memory_allocated",
    )
    figures: int = described("How many figures.", 5)
    configurations: int = described("How many configurations they are of.", 4)
    lowest_error: float = described("The lowest error; below 0 where the estimate was too low.", -0.005194)
    highest_error: float = described("The highest error.", -0.005045)
    median_absolute_error: float = described("The median of their absolute values.", 0.00517)


class Interval(Answer):
    """Where the required memory of equal runs would have been measured."""

    lowest_bytes: int = described("required_bytes, less the highest error.", 9_640_607_744)
    highest_bytes: int = described("required_bytes, less the lowest error.", 9_740_607_744)


class Accuracy(Answer):
    """How far estimates of the method were from measurements, from the committed results (GET /api/v1/validation)."""

    method: str = described("The method whose measurements these are; DoRA goes by its own name.", "lora")
    sentence: str = described("The same in words.", "Estimates of LoRA were held against 17 measured figures: ...")
    errors: tuple[StatisticErrors, ...] = described("The errors by statistic; empty where nothing was measured.", [])
    interval: Interval | None = described(
        "required_bytes with the errors that nvidia-smi's figures of the method had, which are of replays; null where"
        " there are none, and where reserved memory is by the rule.",
        None,
    )


class EstimateAnswer(Answer):
    """The whole answer to one plan."""

    model: ModelSummary = described("What is fine-tuned.", {"id": "meta-llama/Llama-3.1-8B"})
    method: dict[str, Any] = described("The method with all its settings.", {"name": "lora", "r": 16})
    accounting: Literal["exact", "textbook"] = described("How it is accounted for.", "exact")
    reserved: Literal["rule", "replay"] = described("How peak_reserved_bytes was found.", "rule")
    parameters: ParameterCounts = described("How many parameters there are and are trained.", {"trainable": 41_943_040})
    memory: Memory = described("What one training step needs.", {"peak_allocated_bytes": 9_341_251_584})
    fit: Fit | None = described("The verdict; null where no device was given.", {"verdict": "fits"})
    saved_bytes: int = described(
        "The file of what is trained, less its header: an adapter, or for full fine-tuning a model.", 167_772_160
    )
    assumptions: tuple[str, ...] = described("What the figures rest on.", ["PyTorch 2.13, transformers 5, peft 0.21"])
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])
    accuracy: Accuracy = described("How far estimates like this one were from measurements.", {"method": "lora"})

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

    changes: dict[str, Any] = described(
        "Settings that differ, by their paths.", {"training.gradient_checkpointing": False}
    )
    estimate: EstimateAnswer = described("Its estimate.", {"memory": {"peak_allocated_bytes": 9_341_251_584}})


class ComparisonRowAnswer(Answer):
    """One method of a comparison."""

    method: dict[str, Any] = described("The method with all its settings.", {"name": "lora", "r": 16})
    label: str = described("The method's name in words.", "LoRA")
    trainable: str = described("What it trains, as a formula.", "r · (in_features + out_features) per adapted matrix")
    inference_overhead: str = described("What it costs when the model is used.", "none once merged")
    mergeable: bool | None = described(
        "Whether it can be merged into the weights; null where there is nothing to.", True
    )
    best_for: str = described("Where it is at its best.", "most fine-tuning")
    source: str = described("Where these words come from.", "Hu et al. 2021, arXiv 2106.09685, section 4.1")
    estimate: EstimateAnswer | None = described("The answer; null where the combination is refused.", None)
    problems: tuple[ProblemError, ...] = described("Why it is refused.", [])
    alternative: AlternativeAnswer | None = described("The nearest plan that is not refused, if there is one.", None)


class CompareAnswer(Answer):
    """The methods side by side."""

    rows: tuple[ComparisonRowAnswer, ...] = described("A row a method, in the order asked for.", [{"label": "LoRA"}])


class NotExpressedAnswer(Answer):
    """A setting of the plan that an exported file takes otherwise."""

    loc: str = described("Its path in the request.", "training.autocast")
    value: Any = described("What the plan says.", None)
    why: str = described(
        "What the tool does instead.", "axolotl trains bfloat16 weights under autocast (AMP) in bfloat16"
    )


class ExportAnswer(Answer):
    """A file that runs a plan."""

    filename: str = described("What to call it.", "train.py")
    media_type: str = described("Its media type.", "text/x-python")
    content: str = described("Its text, with the estimate in its head.", "# QLoRA of meta-llama/Llama-3.1-8B. ...")
    not_expressed: tuple[NotExpressedAnswer, ...] = described(
        "Where it differs from the plan.", [{"loc": "training.autocast", "value": None}]
    )


class NotUnderstoodAnswer(Answer):
    """A key of an imported file that the request does not hold as it stands there."""

    key: str = described("The key.", "sample_packing")
    value: Any = described("Its value; null where it is left out.", True)
    why: str = described(
        "What about it is not held, and what is taken instead.",
        "packed rows are taken for full sequences, one after the other",
    )


class ImportAnswer(Answer):
    """A file as a request."""

    format: str = described("What the file was read as.", "axolotl")
    request: dict[str, Any] = described("A request that the estimate takes.", {"model": "meta-llama/Llama-3.1-8B"})
    not_understood: tuple[NotUnderstoodAnswer, ...] = described(
        "What the request does not hold.", [{"key": "sample_packing", "value": True}]
    )
    without_effect: tuple[str, ...] = described("Keys that a step's memory does not depend on.", ["learning_rate"])


class Health(BaseModel):
    """That the program runs."""

    status: str = described("Always ok, where there is an answer at all.", "ok")
    version: str = described("The program's version.", "0.1.0")
