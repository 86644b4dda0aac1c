"""The runs in the papers on the methods, each as a request with its answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.lesson.worked.line import Line

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRun:
    """A run in a paper: what the paper states, the request, and the settings that the paper does not state.

    `stated` is the paper's number of parameters that the method adds. `formula` and `substituted` are this project's.
    """

    name: str
    title: str
    paper: str
    source: str
    run: str
    stated: str
    assumed: str
    formula: str
    substituted: str
    request: dict[str, Any]


RUNS = (
    PaperRun(
        name="lora-glue",
        title="RoBERTa-large, LoRA on GLUE",
        paper="Hu et al. 2021, LoRA",
        source="https://arxiv.org/abs/2106.09685",
        run="MNLI, three labels: r 8 on the query and value projections, batches of 4 sequences of 128 tokens.",
        stated="0.8 million trained parameters (table 2)",
        assumed="Weights in float32 under autocast to float16. The head is trained too; the paper does not count it."
        " r and alpha are those of the authors' script (microsoft/LoRA, examples/NLU/roberta_large_sst2.sh), which has"
        " batches of 8 sequences of 512 tokens. The batch here was not checked against the paper.",
        formula="24 layers × 2 matrices × r × (d + k)",
        substituted="24 × 2 × 8 × (1,024 + 1,024)",
        request={
            "model": "FacebookAI/roberta-large",
            "task": "seq_cls",
            "num_labels": 3,
            "method": {"name": "lora", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]},
            "training": {
                "micro_batch_size": 4,
                "sequence_length": 128,
                "dtype": "float32",
                "autocast": "float16",
                "padding": True,
            },
        },
    ),
    PaperRun(
        name="adapters-glue",
        title="BERT-large, adapters on GLUE",
        paper="Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP",
        source="https://arxiv.org/abs/1902.00751",
        run="A classifier: two adapters of size 64 in each layer, batches of 32 sequences.",
        stated="2.1 % of the model trained for a task, with the layer norms (table 1)",
        assumed="Float32. Layer norms stay frozen, and the activation is ReLU. Batches of 32 sequences of 128 tokens"
        " are those of the authors' example (google-research/adapter-bert, README.md).",
        formula="24 layers × 2 adapters × (2dr + r + d)",
        substituted="24 × 2 × (2 × 1,024 × 64 + 64 + 1,024)",
        request={
            "model": "google-bert/bert-large-uncased",
            "task": "seq_cls",
            "method": {"name": "adapter", "bottleneck_size": 64, "placement": "houlsby"},
            "training": {"micro_batch_size": 32, "sequence_length": 128, "dtype": "float32", "padding": True},
        },
    ),
    PaperRun(
        name="prompt-t5-xxl",
        title="T5-XXL, prompt tuning on SuperGLUE",
        paper="Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning",
        source="https://arxiv.org/abs/2104.08691",
        run="A prompt of 100 tokens, Adafactor, batches of 32.",
        stated="20,480 parameters for a prompt of 5 tokens, which is 4,096 for each token (section 1)",
        assumed="One sequence of 512 tokens in a micro-batch, with a target of 8 tokens; weights in bfloat16. PEFT"
        " makes a prompt for the decoder too, which it does not use. The batch was not checked against the paper.",
        formula="2 stacks × p × d",
        substituted="2 × 100 × 4,096",
        request={
            "model": "google/t5-v1_1-xxl",
            "task": "seq_2_seq_lm",
            "method": {"name": "prompt", "num_virtual_tokens": 100},
            "training": {
                "micro_batch_size": 1,
                "gradient_accumulation_steps": 32,
                "sequence_length": 512,
                "target_length": 8,
                "optimizer": "adafactor",
            },
        },
    ),
    PaperRun(
        name="prefix-gpt2",
        title="GPT-2 Medium, prefix tuning from a table to text",
        paper="Li & Liang 2021, Prefix-Tuning",
        source="https://arxiv.org/abs/2101.00190",
        run="E2E: a prefix of 10 tokens, batches of 5.",
        stated="0.1 % of the model (table 1)",
        assumed="Sequences of 256 tokens, in float32. The prefix is trained without the paper's MLP, which it drops"
        " after training. Batches of 5 are those of the authors' command (XiangLi1999/PrefixTuning, README.md), for"
        " WebNLG and a prefix of 5 tokens; the prefix here was not checked against the paper.",
        formula="24 layers × 2 × p × d",
        substituted="24 × 2 × 10 × 1,024",
        request={
            "model": "openai-community/gpt2-medium",
            "method": {"name": "prefix", "num_virtual_tokens": 10},
            "training": {"micro_batch_size": 5, "sequence_length": 256, "dtype": "float32", "padding": True},
        },
    ),
    PaperRun(
        name="prefix-bart",
        title="BART-large, prefix tuning for summaries",
        paper="Li & Liang 2021, Prefix-Tuning",
        source="https://arxiv.org/abs/2101.00190",
        run="XSUM: a prefix of 200 tokens.",
        stated="2 % of the model (table 2)",
        assumed="Sources of 512 tokens and targets of 60, in float32. PEFT's prefix is for the decoder's attention to"
        " its tokens; the paper's code has others for the encoder and for cross-attention. The prefix is that of the"
        " authors' command (XiangLi1999/PrefixTuning, README.md), which has batches of 16.",
        formula="12 layers × 2 × p × d",
        substituted="12 × 2 × 200 × 1,024",
        request={
            "model": "facebook/bart-large",
            "task": "seq_2_seq_lm",
            "method": {"name": "prefix", "num_virtual_tokens": 200},
            "training": {"micro_batch_size": 1, "sequence_length": 512, "target_length": 60, "dtype": "float32"},
        },
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredRun:
    """A run with its lines, or the messages of its refusal."""

    run: PaperRun
    lines: tuple[Line, ...] = ()
    refused: tuple[str, ...] = ()


@cache
def answered() -> tuple[AnsweredRun, ...]:
    """Return every run with the answer to its request."""
    return tuple(map(answer_of, RUNS))


def answer_of(run: PaperRun) -> AnsweredRun:
    """Return a run with the answer to its request."""
    try:
        plan = estimate(parse_request({**run.request, "reserved": "rule"}))
    except PlanError as error:
        return AnsweredRun(run=run, refused=tuple(problem.sentence for problem in error.problems))
    return AnsweredRun(run=run, lines=(*_parameters(run, plan), *_memory(plan)))


def _parameters(run: PaperRun, plan: Estimate) -> tuple[Line, ...]:
    counts = plan.parameters
    head = counts.trainable - _method_parameters(plan)
    paper_line = Line(
        name="parameters of the method",
        formula=run.formula,
        substituted=run.substituted,
        value=_method_parameters(plan),
        unit="parameters",
        main=True,
    )
    share = Line(
        name="share of the base model",
        formula="added ÷ base",
        substituted=f"{_method_parameters(plan):,} ÷ {counts.base:,}",
        value=100 * _method_parameters(plan) / counts.base,
        unit="%",
    )
    head_line = Line(name="the head", formula="trained in full", substituted="", value=head, unit="parameters")
    return (paper_line, share, head_line) if head else (paper_line, share)


def _method_parameters(plan: Estimate) -> int:
    """Return the number of parameters that a method adds, without heads that are trained in full."""
    rows = [row for part in plan.memory.components for row in part.rows if part.name == "adapter_weights"]
    return sum(_elements(row.shape) * row.count for row in rows if "modules_to_save" not in row.name)


def _elements(shape: tuple[int, ...] | None) -> int:
    count = 1
    for size in shape or ():
        count *= int(size)
    return count


def _memory(plan: Estimate) -> tuple[Line, ...]:
    memory = plan.memory
    trained = sum(part.bytes for part in memory.components if part.name in ("gradients", "optimizer_states"))
    return (
        Line(
            name="gradients and optimizer states at the peak",
            formula="by parameter",
            substituted=f"in the {memory.peak_phase.replace('_', ' ')}",
            value=trained,
            unit="bytes",
        ),
        Line(
            name="peak of the step",
            formula="every tensor that is alive",
            substituted=f"at {memory.peak_operation}",
            value=memory.peak_allocated_bytes,
            unit="bytes",
            main=True,
        ),
        Line(
            name="memory of the process",
            formula="reserved by the rule, with the CUDA context",
            substituted="",
            value=memory.required_bytes,
            unit="bytes",
        ),
    )
