"""A process that loads or merges a model, or gathers logits, and prints how much its resident set grew.

`child.py CASE FOLDER`

The libraries are warm before the measurement. Linux resets the peak of the resident set through /proc/self/clear_refs.
"""

from __future__ import annotations

import gc
import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import EvalLoopContainer

if TYPE_CHECKING:
    from collections.abc import Callable

_STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> dict[str, int]:
    """Return the resident set of the process, its peak, and its part in mapped files, in bytes."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssFile")}


def from_pretrained(folder: str, dtype: str) -> Any:
    """Load a model."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def load(folder: str, dtype: str) -> Any:
    """Load a model, and read every weight as a move to a GPU does."""
    model = from_pretrained(folder, dtype)
    for parameter in model.parameters():
        parameter.view(-1)[::512].sum()
    return model


def move(folder: str, dtype: str) -> Any:
    """Load a model, and read and free each weight as a move to a GPU does."""
    model = from_pretrained(folder, dtype)
    for parameter in model.parameters():
        parameter.view(-1)[::512].sum()
        parameter.data = torch.empty(0, dtype=parameter.dtype)
    return model


def gather(batches: int, shape: tuple[int, ...], steps: int | None) -> Any:
    """Gather batches of logits as the Trainer's evaluation does."""
    container = EvalLoopContainer()
    for batch in range(batches):
        logits = torch.zeros(shape, dtype=torch.bfloat16)
        container.add(logits)
        del logits
        if steps is not None and (batch + 1) % steps == 0:
            container.to_cpu_and_numpy()
    return container.get_arrays()


def adapted(folder: str, r: int) -> Any:
    """Return a model in float32 with an adapter of LoRA on every linear layer."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(r=r, target_modules="all-linear"))


def merge(model: Any) -> Any:
    """Merge an adapter and save the model. safetensors moves tensors of a GPU to the host; here, it clones them."""
    as_array = safetensors.torch._to_ndarray
    cloned = mock.patch.object(safetensors.torch, "_to_ndarray", lambda tensor: as_array(tensor.clone()))
    with TemporaryDirectory() as saved, cloned:
        merged = model.merge_and_unload()
        merged.save_pretrained(saved)
    return merged


def task(case: dict[str, Any]) -> Callable[[], Any]:
    """Return the figures that a case measures."""
    if "merge" in case:
        return partial(merge, adapted(**case["merge"]))
    return partial(move, **case["load"]) if "load" in case else partial(gather, **case["gather"])


def main(case: dict[str, Any], tiny: str) -> None:
    """Warm the libraries, run a case, and print the growth of the peak."""
    load(tiny, "float32")
    gather(3, (2, 4, 8), 2)
    merge(adapted(tiny, 1))
    run = task(case)
    gc.collect()
    CLEAR_REFS.write_text("5")
    before = resident()
    kept = run()
    after = resident()
    del kept
    sys.stdout.write(json.dumps({"bytes": after["VmHWM"] - before["VmRSS"]}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
