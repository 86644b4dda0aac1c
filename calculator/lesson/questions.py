"""The lesson's worked examples and practice problems, with its answers and those of this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.estimation.textbook import WEIGHT_BYTES, adapter_parameters, lora_parameters
from calculator.lesson.exercises import EXAMPLES, PROBLEMS
from calculator.lesson.worked.line import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.lesson.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with the lesson's answer, this project's answer, and the figures of both.

    `chapter`, `example` and `typed` link to the worked example with the inputs of the question.
    """

    name: str
    title: str
    asks: str
    lesson: str
    ours: str
    chapter: str
    example: str
    typed: Mapping[str, str]
    figures: tuple[Figure, ...] = ()
    lines: tuple[Line, ...] = ()


def _figures(start: str) -> tuple[Figure, ...]:
    return tuple(figure for figure in (*EXAMPLES, *PROBLEMS) if figure.section.startswith(start))


#: The tasks of problem 4.
TASKS = 20


def _task_line(name: str, formula: str, numbers: str, parameters: int) -> Line:
    return Line(
        name=f"{name}: {TASKS} tasks in 16 bits",
        formula=f"tasks × {WEIGHT_BYTES} × {formula}",
        substituted=f"{TASKS} × {WEIGHT_BYTES} × {numbers}",
        value=TASKS * WEIGHT_BYTES * parameters,
        unit="bytes",
    )


QUESTIONS = (
    Question(
        name="example-1",
        title="Example 1: LoRA on 7B",
        asks="A 7B model has d = 4096 and 32 layers. LoRA with r = 8 adapts Q, K, V and O. How many parameters are"
        " trained, and what share of the model is that?",
        lesson="8,388,608 parameters, 0.12 % of 7B.",
        ours="The same. The share is relative to the lesson's round 7B.",
        chapter="lora",
        example="count",
        typed={},
        figures=_figures("Example 1"),
    ),
    Question(
        name="example-2",
        title="Example 2: 13B on a 24 GB GPU",
        asks="Does QLoRA of Llama-2-13B with r = 16 fit an RTX 4090 of 24 GB, and would r = 256?",
        lesson="7.3 GB at r = 16, so 16.7 GB are left; about 268M parameters at r = 256, still under 8 GB.",
        ours="By the lesson's rules it fits at both ranks. But 268 million is the count for the 7B; the 13B is wider"
        " and deeper. Each row uses the 13B's own numbers.",
        chapter="qlora",
        example="account",
        typed={
            "account-base": "13000000000",
            "account-d": "5120",
            "account-k": "5120",
            "account-r": "256",
            "account-matrices": "4",
            "account-layers": "40",
            "model-model": "meta-llama/Llama-2-13b-hf",
            "model-r": "256",
        },
        figures=_figures("Example 2"),
    ),
    Question(
        name="example-3",
        title="Example 3: a product by hand",
        asks="W₀ = [[1, 2], [3, 4]], A = [[0.1, 0.2]], B = [[0.3], [0.4]], α = 1, r = 2 and x = [1, 1]. What is h?",
        lesson="[3.045, 7.06], about 1.5 % away from W₀x.",
        ours="The same.",
        chapter="lora",
        example="forward",
        typed={},
        figures=_figures("Example 3"),
    ),
    Question(
        name="problem-1",
        title="Problem 1: compression",
        asks="W is 1024 × 4096 and r = 16. How many parameters does the update have, and how much smaller is it?",
        lesson="65,536 + 16,384 = 81,920; 51.2 times smaller.",
        ours="The same.",
        chapter="lora",
        example="count",
        typed={"count-d": "1024", "count-r": "16", "count-matrices": "1", "count-layers": "1"},
        figures=_figures("Problem 1"),
    ),
    Question(
        name="problem-2",
        title="Problem 2: the identity at the start",
        asks="Show that with B = 0 the adapted model is the base model, whatever A is.",
        lesson="B A is the zero matrix, so h is W₀x.",
        ours="The same, and it is exact in floating point: every entry of B A is a sum of zeros times finite numbers,"
        " and adding an exact zero does not round. (If A contained an infinity, the result would be NaN.)",
        chapter="lora",
        example="forward",
        typed={"forward-B": "0; 0"},
        figures=_figures("Problem 2"),
    ),
    Question(
        name="problem-3",
        title="Problem 3: QLoRA of a 70B model",
        asks="How much memory does QLoRA with r = 64 need on a 70B model, at inference and in training at 1 × 2048?"
        " How does full fine-tuning compare?",
        lesson="36 to 37 GB at inference; 38 to 39 GB in training, which fits one 80 GB GPU; 840 GB and 11 GPUs"
        " for full fine-tuning.",
        ours="By the lesson's rules, the same. The real model trains more parameters and keeps more tensors; the"
        " chapter shows its peak.",
        chapter="qlora",
        example="model",
        typed={},
        figures=_figures("Problem 3"),
    ),
    Question(
        name="problem-4",
        title="Problem 4: adapters or LoRA?",
        asks="When would you choose adapters over LoRA?",
        lesson="For many tasks with rapid switching (20, say), for continual learning without touching earlier tasks,"
        " and where the base model must not change.",
        ours="Unmerged LoRA covers all three cases too: it leaves the base model unchanged, and each task is a small"
        " file. At the lesson's sizes, LoRA's file is the smaller one. Quality and latency decide.",
        chapter="adapters",
        example="count",
        typed={},
        lines=(
            _task_line(
                "LoRA, r 8 on Q, K, V, O of a 7B",
                "4 × L × r × (d + k)",
                "4 × 32 × 8 × (4,096 + 4,096)",
                4 * 32 * lora_parameters(4096, 4096, 8),
            ),
            _task_line(
                "adapters, r 64 on the same",
                "2 × L × (2 × d × r + r + d)",
                "2 × 32 × (2 × 4,096 × 64 + 64 + 4,096)",
                2 * 32 * adapter_parameters(4096, 64),
            ),
        ),
    ),
    Question(
        name="problem-5",
        title="Problem 5: a prefix",
        asks="p = 20 virtual tokens, d = 4096 and 40 layers. How many parameters does the prefix have, and what share"
        " of 13B?",
        lesson="6,553,600, which is 0.05 %.",
        ours="The same, for a model whose keys are as wide as its hidden size.",
        chapter="prefix",
        example="count",
        typed={},
        figures=_figures("Problem 5"),
    ),
)
