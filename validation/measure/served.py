"""Measurement of `generate` on a GPU or a stub of one: the most bytes of each pass, and what is reserved."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inference.served_method import served
from validation.measure.checkpoint import loaded, save_checkpoint
from validation.measure.meter import every_block_split, meter_of
from validation.measure.step import emptied
from validation.reference.build import adapted
from validation.reference.served_model import as_served, served_request
from validation.stub_gpu.host_values import BatchValues
from validation.stub_gpu.library import on_stub
from validation.tracing.generation import PASSES

if TYPE_CHECKING:
    from calculator.inference.request import InferenceRequest
    from validation.measure.meter import Meter, Reading
    from validation.measure.served_cases import ServedCase


class _Passes(StoppingCriteria):
    """Ends a pass where its token is chosen, and stops nothing."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.readings: list[Reading] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Read what the pass allocated."""
        self.readings.append(self._meter.read())
        return torch.full((input_ids.shape[0],), False, device=input_ids.device)


def measured(case: ServedCase, device: torch.device) -> dict[str, Any]:
    """Measure a case: the bytes of each pass and those reserved, predicted and measured.

    It belongs into a new process.
    """
    request = parse_inference(case.body)
    memory = inference(request).memory
    with TemporaryDirectory() as folder:
        _save(request, Path(folder))
        figures = _ran(request, Path(folder), device)
        with every_block_split(device):
            figures["passes"] = _ran(request, Path(folder), device)["passes"]
    predicted = {
        "passes": {peak.name: peak.peak_bytes for peak in memory.passes},
        "library_workspace": memory.library_workspace_bytes,
        "reserved_replay": memory.peak_reserved_bytes,
    }
    return {"request": case.body, "predicted": predicted, "measured": figures}


def _save(request: InferenceRequest, folder: Path) -> None:
    plan = served(request.method, request.serving)
    save_checkpoint(served_request(request.model, plan, request.serving), folder)


def _ran(request: InferenceRequest, folder: Path, device: torch.device) -> dict[str, Any]:
    """Load the model and generate, and return the most bytes of each pass and those reserved."""
    serving, plan = request.serving, served(request.method, request.serving)
    training = served_request(request.model, plan, serving)
    with meter_of(device) as meter:
        reference = adapted(loaded(training, folder, device), training, device)
        model: Any = as_served(reference, plan, serving, device).model
        model.generation_config.eos_token_id = None
        load, passes = meter.read(), _Passes(meter)
        shape = (serving.batch_size, serving.context_length)
        with torch.no_grad(), BatchValues() if on_stub() else nullcontext():
            input_ids = torch.ones(shape, dtype=torch.long, device=device)
            mask = torch.ones_like(input_ids)
            if serving.padding:
                mask[0, 0] = 0
            model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                max_new_tokens=serving.max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([passes]),
            )
        del model, reference, input_ids, mask
    emptied(device)
    peaks: dict[str, int] = {}
    for number, reading in enumerate(passes.readings):
        name = PASSES[min(number, len(PASSES) - 1)]
        peaks[name] = max(peaks.get(name, 0), reading.peak_allocated or 0)
    reserved = [reading.peak_reserved or 0 for reading in (load, *passes.readings)]
    return {"passes": peaks, "peak_reserved": max(reserved)}
