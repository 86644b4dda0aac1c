"""The lesson's comparison of the methods, with figures computed for a chosen model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from calculator.common.errors import PlanError
from calculator.comparison.methods import compare, parse_comparison
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.settings import setting
from calculator.lesson.worked.line import Line, WorkedExample
from calculator.lesson.worked.on_model import ATTENTION, OnModel
from calculator.methods import USUAL_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import MethodName
    from calculator.comparison.methods import ComparisonRow
    from calculator.estimation.answer import Estimate
    from calculator.inference.answer import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(OnModel):
    """The model and training settings of all methods, and the size of each method."""

    gpu: str = setting("rtx-4090", label="GPU", help="A GPU from the catalogue. The chart marks its memory.")
    gradient_checkpointing: bool = setting(
        False, label="Gradient checkpointing", help="PEFT refuses it with a prefix, whose row then runs without it."
    )
    r: int = setting(8, label="Rank", help="Of LoRA and QLoRA.", minimum=1, maximum=65_536)
    target_modules: Literal["attention", "all-linear"] = setting(
        "attention", label="Adapted", help="Q, K, V and O of the Llama family, or every linear layer."
    )
    bottleneck_size: int = setting(64, label="Bottleneck", help="Of the adapters.", minimum=1, maximum=65_536)
    num_virtual_tokens: int = setting(
        20, label="Virtual tokens", help="Of prefix and prompt.", minimum=1, maximum=1_000_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The lesson's row on a method, in its words."""

    trainable: str
    memory: str
    overhead: str
    mergeable: str
    best_for: str
    #: The chapter on the method.
    chapter: str


#: The row of each method in the lesson's table.
CLAIMS: dict[MethodName, Claim] = {
    "full": Claim(
        trainable="all", memory="very high", overhead="none", mergeable="–", best_for="pre-training", chapter="full"
    ),
    "lora": Claim(
        trainable="r(d + k) a matrix",
        memory="medium",
        overhead="none (merged)",
        mergeable="yes",
        best_for="most fine-tuning",
        chapter="lora",
    ),
    "qlora": Claim(
        trainable="r(d + k) a matrix",
        memory="low",
        overhead="none (merged)",
        mergeable="yes",
        best_for="consumer GPUs",
        chapter="qlora",
    ),
    "adapter": Claim(
        trainable="~4drL",
        memory="medium",
        overhead="small latency",
        mergeable="no",
        best_for="multi-task switching",
        chapter="adapters",
    ),
    "prefix": Claim(
        trainable="2pdL", memory="low", overhead="none", mergeable="no", best_for="task conditioning", chapter="prefix"
    ),
    "prompt": Claim(
        trainable="pd", memory="very low", overhead="none", mergeable="no", best_for="large models", chapter="prompt"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A method: the lesson's claim, the row of the comparison, and the costs at inference without merging."""

    claim: Claim | None
    row: ComparisonRow
    overhead: tuple[Cost, ...]

    @property
    def estimate(self) -> Estimate | None:
        """The estimate of the row, or of the nearest accepted plan if the row is refused."""
        alternative = self.row.alternative
        return self.row.estimate or (alternative.estimate if alternative else None)


#: Labels of the costs of generating a token.
COSTS = {
    "operations_per_token": "operations per token",
    "bytes_read_per_token": "bytes read per token",
    "kv_cache_bytes": "bytes of KV cache",
}


def _low_rank(typed: Compared) -> dict[str, Any]:
    targets = list(ATTENTION) if typed.target_modules == "attention" else typed.target_modules
    return {"r": typed.r, "target_modules": targets}


def _virtual_tokens(typed: Compared) -> dict[str, Any]:
    return {"num_virtual_tokens": typed.num_virtual_tokens}


#: The fields of the form that set a method's settings.
SIZES: dict[MethodName, Callable[[Compared], dict[str, Any]]] = {
    "lora": _low_rank,
    "qlora": _low_rank,
    "adapter": lambda typed: {"bottleneck_size": typed.bottleneck_size},
    "prefix": _virtual_tokens,
    "prompt": _virtual_tokens,
}


def body(typed: Compared) -> dict[str, Any]:
    """Return the request of the comparison."""
    return {
        "model": typed.model,
        "methods": [{"name": name, **(SIZES[name](typed) if name in SIZES else {})} for name in USUAL_METHODS],
        "training": {
            "micro_batch_size": typed.micro_batch_size,
            "sequence_length": typed.sequence_length,
            "gradient_checkpointing": typed.gradient_checkpointing,
        },
        "device": {"gpu": typed.gpu} if typed.gpu else {},
    }


@lru_cache(maxsize=64)
def table(typed: Compared) -> tuple[TableRow, ...]:
    """Return a row for every method, computed for the inputs.

    Raises:
        PlanError: if every method is refused.
    """
    rows = compare(parse_comparison(body(typed)))
    return tuple(TableRow(claim=CLAIMS.get(row.method.name), row=row, overhead=_overhead(row, typed)) for row in rows)


def _overhead(row: ComparisonRow, typed: Compared) -> tuple[Cost, ...]:
    """Return the costs per token over the base model without merging, after a prompt of one training sequence."""
    serving = {"batch_size": typed.micro_batch_size, "context_length": typed.sequence_length, "max_new_tokens": 1}
    request = replace(parse_inference({"model": typed.model, "serving": serving}), method=row.method)
    try:
        costs = inference(request).costs
    except PlanError:
        return ()
    return tuple(cost for cost in costs if cost.added and cost.name in COSTS)


def lines(typed: Compared) -> tuple[Line, ...]:
    """Return the figures of the table as lines, method by method.

    Raises:
        PlanError: if every method is refused.
    """
    return tuple(line for row in table(typed) for line in _row_lines(row))


def _row_lines(row: TableRow) -> tuple[Line, ...]:
    estimate, label = row.estimate, row.row.method.facts.label
    if estimate is None:
        return ()
    trained = Line(
        name=f"{label}: trained",
        formula=row.row.method.facts.trainable,
        substituted=f"{estimate.parameters.trainable:,} of {estimate.parameters.total:,}",
        value=estimate.parameters.trainable,
        unit="parameters",
    )
    required = Line(
        name=f"{label}: required of a GPU",
        formula="peak + allocator + CUDA",
        substituted=f"peak {estimate.memory.peak_allocated_bytes:,}",
        value=estimate.memory.required_bytes,
        unit="bytes",
        main=True,
    )
    overheads = (
        Line(
            name=f"{label}: {COSTS[cost.name]} relative to the base model's",
            formula=cost.formula,
            substituted=cost.substituted,
            value=100 * cost.share,
            unit="%",
        )
        for cost in row.overhead
    )
    return (trained, required, *overheads)


COMPARISON = WorkedExample(
    name="table",
    title="The compared model",
    introduction="Every figure in the table and the chart is computed for these inputs.",
    settings=Compared,
    lines=lines,
)
