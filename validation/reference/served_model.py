"""The model of an inference request, built from the real modules, in eval mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.request import Request
from calculator.methods import Full
from validation.reference import methods
from validation.reference.build import META, build_model

if TYPE_CHECKING:
    from calculator.estimation.request import ModelReference
    from calculator.inference.served_method import ServedMethod
    from calculator.inference.settings import Serving
    from validation.reference.build import ReferenceModel


def build_served_model(model: ModelReference, served: ServedMethod, serving: Serving) -> ReferenceModel:
    """Build a served model on the meta device, with one adapter for each task.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    method = Full() if served.merged else served.method
    request = Request(model=model, method=method, training=serving.training)
    reference = build_model(request, quantization=served.quantization)
    _add_adapters(reference, served, serving)
    reference.model.eval()
    for config in getattr(reference.model, "peft_config", {}).values():
        config.inference_mode = True
    return reference


def _add_adapters(reference: ReferenceModel, served: ServedMethod, serving: Serving) -> None:
    """Add the adapters of the second and later tasks as PEFT loads them, and cast their parameters."""
    for task in range(1, serving.tasks):
        with META:
            reference.model.add_adapter(f"task {task}", reference.model.peft_config["default"])
    if not served.merged:
        methods.cast(reference.model, serving.adapter_dtype)
