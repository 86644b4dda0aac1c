"""Measurement of one layer: memory after loading, forward, backward and the optimizer step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb
import torch

from validation.measure.arithmetic import output_error
from validation.measure.layer_prediction import predicted
from validation.measure.meter import Reading, every_block_split, meter_of
from validation.measure.subjects import Subject
from validation.reference.optimizers import optimizer_for, states
from validation.tracing.emulations import functional

if TYPE_CHECKING:
    from validation.measure.layer_cases import LayerCase


def measured(case: LayerCase, device: torch.device) -> dict[str, Any]:
    """Measure a layer: predicted and measured bytes by moment, and the output's error, as the results file has them."""
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    readings: dict[str, Reading] = {}
    with every_block_split(device), meter_of(device) as meter, fused_dropout(device):
        subject = Subject(case, device)
        readings["load"] = meter.read()
        x = subject.input()
        out = subject.forward(x)
        readings["forward"] = meter.read()
        gradient = torch.ones_like(out)
        out.backward(gradient)
        readings["backward"] = meter.read()
        error = output_error(subject, x, out)
        meter.read()
        trainable = subject.trainable()
        if trainable:
            optimizer = optimizer_for(case.request.training.optimizer, trainable)
            optimizer.step()
            readings["optimizer_step"] = meter.read(host=counters(optimizer))
    return {
        "request": case.body,
        "module": case.module,
        "moments": {
            moment: {"predicted": figures.to_json(), "measured": readings[moment].to_json()}
            for moment, figures in predicted(case).items()
        },
        "output_error": None if error is None else round(error, 6),
    }


def counters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the step counters, which are on the host unless the optimizer is fused."""
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return [] if fused else [tensor for _, name, tensor in states(optimizer) if name == "step"]


def fused_dropout(device: torch.device) -> AbstractContextManager[Any]:
    """Run dropout with a boolean mask on the CPU, as on a GPU."""
    if device.type == "cuda":
        return nullcontext()
    return mock.patch("torch.nn.functional.dropout", functional.dropout)
