"""Cases of host memory: what is predicted, and what a process measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calculator.run.gathered import Gathered, OfRow
from calculator.run.request import parse_run
from calculator.run.run import whole_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


#: glibc's malloc maps every tensor, and returns it when it is freed. It keeps what threads free otherwise.
RETURNS_WHAT_IS_FREED = {"MALLOC_MMAP_THRESHOLD_": "131072"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case: its name, what the child runs, the predicted bytes, and the freed ones that malloc may keep too."""

    name: str
    child: dict[str, Any]
    predicted: int
    kept: int = 0


def model_config(hidden_size: int, layers: int) -> dict[str, Any]:
    """Return the config of a Llama with that width and depth."""
    return {
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
    }


def experts_config(hidden_size: int, layers: int) -> dict[str, Any]:
    """Return the config of a Mixtral with that width and depth, whose experts are fused while it is loaded."""
    experts = {"intermediate_size": 2 * hidden_size, "num_local_experts": 8, "num_experts_per_tok": 2}
    return {**model_config(hidden_size, layers), "model_type": "mixtral", **experts}


def write_model(config: dict[str, Any], folder: Path) -> None:
    """Write a model with these shapes in bfloat16."""
    model_config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.bfloat16)
    model.to_empty(device="cpu").save_pretrained(folder)


def loading_cases(config: dict[str, Any], folder: Path) -> Iterator[Case]:
    """Loading in the checkpoint's dtype, and in another one."""
    for dtype in ("bfloat16", "float32"):
        body = {
            "model": {"config": config},
            "method": {"name": "full"},
            "training": {"dtype": dtype, "sequence_length": 8},
            "reserved": "rule",
            "run": {"checkpoint_dtype": "bfloat16", "save_strategy": "no"},
        }
        load = whole_run(parse_run(body)).phases[0]
        yield Case(
            name=f"load bfloat16 as {dtype}, {config['model_type']}",
            child={"load": {"folder": str(folder), "dtype": dtype}},
            predicted=load.host_bytes,
            kept=load.host_kept_bytes,
        )


def evaluation_cases(rows: int, tokens: int, vocabulary: int, batches: int) -> Iterator[Case]:
    """Gathering logits in one group and in several. What would be on a GPU is in the process too."""
    for steps in (None, 2):
        gathered = Gathered(
            rows=rows,
            samples=rows * batches,
            steps=steps,
            outputs=(OfRow("logits", (tokens, vocabulary), "bfloat16"),),
        )
        on_device = 0 if steps is None else 2 * rows * steps * tokens * vocabulary
        yield Case(
            name=f"gather {batches} batches of logits, {f'{steps} at a time' if steps else 'at once'}",
            child={"gather": {"batches": batches, "shape": [rows, tokens, vocabulary], "steps": steps}},
            predicted=gathered.host_bytes + on_device,
        )


def merging_case(config: dict[str, Any], folder: Path) -> Case:
    """Merging an adapter, and saving the model. A clone stands for a copy of a tensor that is on a GPU."""
    body = {
        "model": {"config": config},
        "method": {"name": "lora", "r": 8, "target_modules": "all-linear"},
        "training": {"dtype": "float32", "sequence_length": 8},
        "reserved": "rule",
        "run": {"merge_and_unload": True},
    }
    predicted = whole_run(parse_run(body)).phases[-1].host_bytes
    child = {"merge": {"folder": str(folder), "r": 8}}
    return Case(name="merge and save in float32", child=child, predicted=predicted)


def measured(case: Case, tiny: Path, *, keeps: bool = False) -> int:
    """Run a case in a process of its own; the bytes by which its resident set grew at most.

    `keeps`: whether glibc's malloc has its defaults, with which it keeps what threads free.
    """
    command = [sys.executable, "-m", "validation.host.child", json.dumps(case.child), str(tiny)]
    environment = {**os.environ, **({} if keeps else RETURNS_WHAT_IS_FREED)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603  our own
    return int(json.loads(ran.stdout.splitlines()[-1])["bytes"])
