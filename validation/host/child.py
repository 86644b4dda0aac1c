"""A process that loads a model, or gathers logits, and prints how much its resident set grew: `child.py CASE FOLDER`.

The libraries are warm before the measurement. Linux resets the peak of the resident set through /proc/self/clear_refs.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import EvalLoopContainer

_STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> dict[str, int]:
    """The resident set of the process, its peak, and its part in mapped files, in bytes."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssFile")}


def load(folder: str, dtype: str) -> Any:
    """Load a model, and read every weight as a move to a GPU does."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.view(-1)[::512].sum()
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


def main(case: dict[str, Any], tiny: str) -> None:
    """Warm the libraries, run a case, and print the growth of the peak."""
    load(tiny, "float32")
    gather(3, (2, 4, 8), 2)
    gc.collect()
    CLEAR_REFS.write_text("5")
    before = resident()
    kept = load(**case["load"]) if "load" in case else gather(**case["gather"])
    after = resident()
    del kept
    sys.stdout.write(json.dumps({"bytes": after["VmHWM"] - before["VmRSS"]}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
