"""The lesson's runs of 70B, 13B and 7B models as requests, in its own settings and in usual ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from calculator import catalogue
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.lesson import LESSON
from validation.comparison import compare
from validation.prove.claim import GB
from validation.tracing import snapshot
from validation.tracing.trace import trace

B70, B13, B7 = "meta-llama/Meta-Llama-3-70B", "meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-7b-hf"

#: The training of every run: one sequence, and checkpointing, without which 70B models are not trained.
TRAINING = {"sequence_length": 2048, "gradient_checkpointing": True}
TRAINING_TEXT = f"one sequence of {TRAINING['sequence_length']:,} tokens with checkpointing"
ATTENTION = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
MIXED = {"dtype": "float32", "autocast": "bfloat16"}

#: The number of layers of a model in the quick version.
FEW = 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the lesson: its name, its request, and the lesson's claims about its components.

    A quick run is traced with few layers; figures of the whole model are then the calculator's.
    """

    name: str
    body: dict[str, Any]
    stated: dict[str, str]
    quick: bool

    @cached_property
    def exact(self) -> snapshot.Snapshot:
        """The calculator's snapshot."""
        return compare.estimate(parse_request(self.body))

    @cached_property
    def found(self) -> snapshot.Snapshot:
        """The traced snapshot; the calculator's in a quick run."""
        return self.exact if self.quick else self.compared[1]

    @cached_property
    def compared(self) -> tuple[snapshot.Snapshot, snapshot.Snapshot]:
        """The calculator's and the traced snapshot of the same model."""
        request = parse_request({**self.body, "model": {"config": self._few_layers()}} if self.quick else self.body)
        return compare.estimate(request), snapshot.traced(trace(request))

    def _few_layers(self) -> dict[str, Any]:
        return {**catalogue.model(self.body["model"]).config, "num_hidden_layers": FEW}

    @cached_property
    def textbook(self) -> dict[str, int]:
        """Bytes by component, by the lesson's rules on the real model."""
        answer = estimate(parse_request({**self.body, "accounting": "textbook"}))
        return {part.name: part.bytes for part in answer.memory.components}

    def lesson(self, component: str) -> int | None:
        """Return the lesson's figure in bytes, if it has one."""
        claim = self.stated.get(component)
        return None if claim is None else round(stated(claim)[1] * GB)


def stated(claim: str) -> tuple[float, float]:
    """Return the lower and upper end of a figure that the lesson states."""
    (stated_figure,) = [figure for figure in LESSON if figure.claim == claim]
    return stated_figure.low, stated_figure.high


def runs(*, quick: bool) -> dict[str, Run]:
    """Return every run by key."""
    full = {"name": "full"}
    prepared = {"name": "qlora", **ATTENTION}
    plain = {**prepared, "prepare_model_for_kbit_training": False}
    return {
        "full": _run("70B, full, bfloat16", B70, full, {}, _FULL, quick=quick),
        "mixed": _run("70B, full, float32 under autocast", B70, full, MIXED, _FULL, quick=quick),
        "qlora": _run("70B, QLoRA, r 64", B70, {**plain, "r": 64}, {}, _QLORA, quick=quick),
        "prepared": _run("70B, QLoRA, r 64, prepared by PEFT", B70, {**prepared, "r": 64}, {}, _QLORA, quick=quick),
        "r16": _run("13B, QLoRA, r 16", B13, {**plain, "r": 16}, {}, _R16, quick=quick),
        "r256": _run("13B, QLoRA, r 256", B13, {**plain, "r": 256}, {}, _R256, quick=quick),
        "lora": _run("7B, LoRA, r 8", B7, {"name": "lora", "r": 8, **ATTENTION}, {}, {}, quick=quick),
    }


_FULL = {
    "base_weights": "70B parameters in fp16",
    "gradients": "their gradients in fp16",
    "optimizer_states": "FP16 optimizer states",
    "peak": "full fine-tuning of 70B with Adam",
}
_QLORA = {
    "base_weights": "70B in NF4",
    "adapter_weights": "LoRA parameters, r = 64",
    "optimizer_states": "LoRA optimizer states",
    "peak": "training with 3 GB of activations",
}
_R16 = {"base_weights": "13B in NF4", "peak": "total, batch 1"}
_R256 = {"base_weights": "13B in NF4", "peak": "total with r 256 stays under"}


def _run(
    name: str, model: str, method: dict[str, Any], training: dict[str, Any], claims: dict[str, str], *, quick: bool
) -> Run:
    body = {"model": model, "method": method, "training": {**TRAINING, **training}}
    return Run(name=name, body=body, stated=claims, quick=quick)
