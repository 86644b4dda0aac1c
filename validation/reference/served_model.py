"""The model of an inference request, built from the real modules, in eval mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.request import Request
from calculator.methods import Full
from validation.reference import methods
from validation.reference.build import META, build_model

if TYPE_CHECKING:
    import torch

    from calculator.estimation.request import ModelReference
    from calculator.inference.served_method import ServedMethod
    from calculator.inference.settings import Serving
    from validation.reference.build import ReferenceModel


def build_served_model(model: ModelReference, served: ServedMethod, serving: Serving) -> ReferenceModel:
    """Build a served model on the meta device, with one adapter for each task.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    reference = build_model(served_request(model, served, serving), quantization=served.quantization)
    return as_served(reference, served, serving, META)


def served_request(model: ModelReference, served: ServedMethod, serving: Serving) -> Request:
    """Return the request of a model with the method that it is served with."""
    return Request(model=model, method=Full() if served.merged else served.method, training=serving.training)


def as_served(
    reference: ReferenceModel, served: ServedMethod, serving: Serving, device: torch.device
) -> ReferenceModel:
    """Return a model in eval mode, with the adapters of further tasks on its device."""
    with device:
        _add_adapters(reference, served, serving)
    reference.model.eval()
    for config in getattr(reference.model, "peft_config", {}).values():
        config.inference_mode = True
    return reference


def _add_adapters(reference: ReferenceModel, served: ServedMethod, serving: Serving) -> None:
    """Add the adapters of the second and later tasks as PEFT loads them, and cast their parameters."""
    for task in range(1, serving.tasks):
        reference.model.add_adapter(f"task {task}", reference.model.peft_config["default"])
    if not served.merged:
        methods.cast(reference.model, serving.adapter_dtype)
