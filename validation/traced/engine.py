"""The traced engine: a request's real step on the meta device, as the document of an estimate."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, refusal
from calculator.estimation.request import ModelReference
from validation.reference.build import config_of
from validation.traced.config import checked
from validation.traced.document import document_of
from validation.traced.kernel_packages import KernelPackages
from validation.traced.values import SpreadValues
from validation.tracing.trace import trace_and_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request
    from calculator.estimation.traced.document import TraceDocument


def answer(request: Request, progress: Callable[[str], None] = lambda _: None) -> TraceDocument:
    """Trace a request's step.

    Raises:
        PlanError: if its config is refused, a library refuses the request, or the step cannot run without values.
    """
    config = checked(config_of(request), request.task)
    alone = replace(request, model=ModelReference(config=config, task=request.model.task))
    values, packages = SpreadValues(), KernelPackages()
    start = time.perf_counter()
    try:
        with packages.recorded():
            trace, reference = trace_and_model(alone, values=values, progress=progress)
    except (PlanError, MemoryError):
        raise
    except Exception as error:
        raise refusal("model", untraceable(error), config["model_type"]) from error
    progress("listing the tensors")
    return document_of(
        trace,
        reference,
        seconds=time.perf_counter() - start,
        guesses=values.guesses,
        kernel_packages=packages.functions,
    )


def untraceable(error: Exception) -> str:
    """Return why a step cannot be traced, in a sentence."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, NotImplementedError) and "meta" in reason.lower():
        return f"the step depends on values that a trace does not have ({reason})"
    return f"the step cannot be traced: {type(error).__name__}: {reason}"
