"""A callback of transformers' Trainer that predicts a run's memory and measures it.

    from validation.runtime import MemoryCheck
    trainer = Trainer(..., callbacks=[MemoryCheck(record="memory.json")])

It predicts when the training begins, measures after its steps 2, 3 and the last (those after the checkpoint that it
resumes from), and prints both. Peaks are of training steps: they begin again after an evaluation and a checkpoint. With
`record`, it writes them to a file that `python -m validation published --records memory.json` reads. The file has the
model's shapes, the settings and the versions: no names and no paths. A training that no request describes goes on
without it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from validation.runtime.readings import measured, predicted
from validation.runtime.run_request import run_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerControl, TrainerState, TrainingArguments

#: The version of the record's schema, `schema.json`.
FORMAT = 1

#: The steps after which memory is measured, in addition to the last.
STEPS = (2, 3)

#: The libraries whose versions a record states.
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl")


class MemoryCheck(TrainerCallback):
    """Predicts a run's memory, measures it after some steps, and prints both.

    Args:
        record: The file to write, if any.
        sequence_length: The longest sequence; by default that of the dataset, cut to the arguments' max_length.
        steps: The steps after which memory is measured, in addition to the last.
        write: What prints a line.
    """

    def __init__(
        self,
        record: str | Path | None = None,
        *,
        sequence_length: int | None = None,
        steps: tuple[int, ...] = STEPS,
        write: Callable[[str], object] = print,
    ) -> None:
        self.record = None if record is None else Path(record)
        self.sequence_length = sequence_length
        self.steps = steps
        self.write = write
        self.request: dict[str, Any] | None = None
        self.predicted: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []
        self._first = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Predict."""
        self.request, self.rows, self._first = None, [], state.global_step
        samples = getattr(train_dataloader, "dataset", None)
        try:
            request = run_request(model, args, samples, self.sequence_length)
            self.predicted = predicted(parse_request(request), args.device)
        except PlanError as error:
            self.write(f"Headroom: no prediction for this training: {error}")
            return
        self.request = request
        self._begin_peak(args)
        self.write(f"Headroom predicts {_line(self.predicted)}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the evaluation out of the peaks."""
        self._begin_peak(args)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the checkpoint out of the peaks."""
        self._begin_peak(args)

    def _begin_peak(self, args: TrainingArguments) -> None:
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Measure after a step."""
        step = state.global_step
        if self.request is None or (step - self._first not in self.steps and step != state.max_steps):
            return
        measured_bytes = measured(model, getattr(optimizer, "optimizer", optimizer), args.device)
        self.rows.append({"step": step, "measured": measured_bytes})
        self.write(f"Headroom, step {step}: {_compared(self.predicted, measured_bytes)}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the record."""
        if self.request is None or self.record is None or not self.rows or state.is_world_process_zero is False:
            return
        document = {
            "format": FORMAT,
            "date": datetime.now(UTC).date().isoformat(),
            "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
            "versions": _versions(),
            "request": self.request,
            "predicted": self.predicted,
            "rows": self.rows,
        }
        self.record.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _line(figures: dict[str, int]) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in figures.items())


def _compared(expected: dict[str, int], measured: dict[str, int]) -> str:
    """Return each figure, with the prediction and its error where there is one."""
    parts = []
    for name, size in measured.items():
        if name in expected and size:
            parts.append(f"{name} {size:,} (predicted {expected[name]:,}, {expected[name] / size - 1:+.3%})")
        else:
            parts.append(f"{name} {size:,}")
    return ", ".join(parts)
