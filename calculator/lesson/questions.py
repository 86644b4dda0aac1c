"""The lesson's worked examples and practice problems, with its answers and ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.estimate.textbook import WEIGHT_BYTES, adapter_parameters, lora_parameters
from calculator.lesson.exercises import EXAMPLES, PROBLEMS
from calculator.lesson.worked.line import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.lesson.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One of them: what it asks, its figures, and what is said in words.

    `chapter`, `example` and `typed` lead to the worked example that it is an instance of.
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


#: Problem 4's tasks.
TASKS = 20


def _of_tasks(name: str, formula: str, numbers: str, parameters: int) -> Line:
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
        asks="A 7B model has d = 4096 and 32 layers. LoRA of r = 8 is put on Q, K, V and O. How many parameters are"
        " trained, and what share of the model is that?",
        lesson="8,388,608 parameters, 0.12 % of 7B.",
        ours="The same. The share is of the round 7B that the lesson takes.",
        chapter="lora",
        example="count",
        typed={},
        figures=_figures("Example 1"),
    ),
    Question(
        name="example-2",
        title="Example 2: 13B on a 24 GB card",
        asks="Does QLoRA of Llama-2-13B with r = 16 fit an RTX 4090 of 24 GB, and would r = 256?",
        lesson="7.3 GB at r = 16, so that 16.7 GB are left; about 268M parameters at r = 256, still under 8 GB.",
        ours="It fits by the lesson's rules at both ranks. But the 268 million are those of the 7B: the 13B is wider"
        " and deeper. Each row has the 13B's own numbers.",
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
        asks="W is 1024 × 4096 and r = 16. How many parameters has the update, and how much smaller is it?",
        lesson="65,536 + 16,384 = 81,920; 51.2 times smaller.",
        ours="The same.",
        chapter="lora",
        example="count",
        typed={"count-d": "1024", "count-r": "16", "count-matrices": "1", "count-layers": "1"},
        figures=_figures("Problem 1"),
    ),
    Question(
        name="problem-2",
        title="Problem 2: the identity at the beginning",
        asks="Show that with B = 0 the adapted model is the base model, whatever A is.",
        lesson="B A is the zero matrix, so that h is W₀x.",
        ours="The same, and it holds bit for bit in floating point: a sum with an exact zero rounds nothing. Every"
        " entry of B A is a sum of zeros times finite numbers. (An A with an infinity in it would make it not a"
        " number.)",
        chapter="lora",
        example="forward",
        typed={"forward-B": "0; 0"},
        figures=_figures("Problem 2"),
    ),
    Question(
        name="problem-3",
        title="Problem 3: QLoRA of a 70B model",
        asks="What does QLoRA of r = 64 take on a 70B model, at inference and in training at 1 × 2048? How does full"
        " fine-tuning compare?",
        lesson="36 to 37 GB at inference; 38 to 39 GB in training, which fits one 80 GB card; 840 GB and 11 cards in"
        " full.",
        ours="By the lesson's rules, yes. On the real model more is trained and more is kept: the chapter has its"
        " peak.",
        chapter="qlora",
        example="model",
        typed={},
        figures=_figures("Problem 3"),
    ),
    Question(
        name="problem-4",
        title="Problem 4: adapters or LoRA?",
        asks="When would you take adapters, and not LoRA?",
        lesson="For many tasks with rapid switching (20, say), for continual learning without touching earlier tasks,"
        " and where the base model must not change.",
        ours="LoRA that is not merged serves all three as well: it too leaves the base alone, and a task is a small"
        " file. At the lesson's sizes a task of LoRA is the smaller one. What decides is quality and latency.",
        chapter="adapters",
        example="count",
        typed={},
        lines=(
            _of_tasks(
                "LoRA, r 8 on Q, K, V, O of a 7B",
                "4 × L × r × (d + k)",
                "4 × 32 × 8 × (4,096 + 4,096)",
                4 * 32 * lora_parameters(4096, 4096, 8),
            ),
            _of_tasks(
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
        asks="p = 20 virtual tokens, d = 4096 and 40 layers. How many parameters has the prefix, and what share of"
        " 13B?",
        lesson="6,553,600, which is 0.05 %.",
        ours="The same, for a model whose keys are as wide as it is.",
        chapter="prefix",
        example="count",
        typed={},
        figures=_figures("Problem 5"),
    ),
)
