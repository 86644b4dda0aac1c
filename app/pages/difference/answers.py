"""The answer of `/difference.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.api.answers.answer import Answer, described

if TYPE_CHECKING:
    from app.pages.difference.view import Difference


class PlanOfDifference(Answer):
    """One of the runs."""

    label: str = described("A short description.", "QLoRA, meta-llama/Llama-3.1-8B on GeForce RTX 4090")
    address: str = described("The address of the estimate's page.", "/?r=32")
    required_bytes: int = described("The required memory.", 21_494_661_120)
    peak_allocated_bytes: int = described("The live tensors at the peak.", 20_341_251_584)


class SettingAnswer(Answer):
    """A setting that differs between the runs."""

    path: str = described("The setting's dotted path in a request.", "method.r")
    values: tuple[Any, ...] = described("Its value in each run; null if a run does not have it.", [16, 32])


class RowAnswer(Answer):
    """Tensors that differ between the runs."""

    name: str = described("What the tensors are.", "hidden states")
    dtype: str = described("The data type.", "bfloat16")
    bytes: tuple[int, ...] = described("Their bytes in each run.", [8_388_608, 16_777_216])


class ComponentAnswer(Answer):
    """A component of the peak in each run."""

    name: str = described("The component's name.", "activations")
    bytes: tuple[int, ...] = described("Its bytes in each run.", [1_000_000_000, 2_000_000_000])
    rows: tuple[RowAnswer, ...] = described("The rows that differ.", [{"name": "hidden states"}])


class DifferenceAnswer(Answer):
    """The runs and what differs between them."""

    plans: tuple[PlanOfDifference, ...] = described("The runs, in order.", [{"address": "/?r=32"}])
    settings: tuple[SettingAnswer, ...] = described("The settings that differ.", [{"path": "method.r"}])
    components: tuple[ComponentAnswer, ...] = described("The peaks by component.", [{"name": "activations"}])


def difference_answer(difference: Difference) -> DifferenceAnswer:
    """Convert a difference to its JSON version."""
    plans = [
        {
            "label": plan.label,
            "address": plan.address,
            "required_bytes": plan.estimate.memory.required_bytes,
            "peak_allocated_bytes": plan.estimate.memory.peak_allocated_bytes,
        }
        for plan in difference.plans
    ]
    return DifferenceAnswer.model_validate(
        {"plans": plans, "settings": difference.settings, "components": difference.components}, from_attributes=True
    )
