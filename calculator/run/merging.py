"""The peak of merging an adapter into its base model after training (peft's merge_and_unload).

The Trainer's optimizer refers to the adapter's parameters until the script ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.inference.merging import merging
from calculator.inference.served_method import ServedMethod
from calculator.run.evaluation import PhasePeak

if TYPE_CHECKING:
    from calculator.methods import Method
    from calculator.training_step.resident_state import ResidentState


def merge_peak(resident: ResidentState, method: Method) -> PhasePeak:
    """Return the peak of merging, in addition to the trained model, over a base in 16 or 32 bits.

    Raises:
        PlanError: if the merge of this method is not modeled.
    """
    merged = merging(resident, ServedMethod(method=method, quantization=None), in_run=True)
    if merged is None:
        message = f"the memory that merging {method.title} with these settings takes is not modeled: use false"
        raise refusal("run.merge_and_unload", message, True)
    return PhasePeak(rows=merged.rows, operation=f"merge_and_unload: {merged.module}")
