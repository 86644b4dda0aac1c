"""How reliable the figures of a traced answer are, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate
    from calculator.estimation.traced.grade import Grade

#: The meaning of each grade.
MEANINGS: dict[Grade, str] = {
    "modelled": "the calculator models this step.",
    "modelled as an interval": (
        "the calculator models this step, which depends on something that a request does not state. Both ends equal"
        " traces of the trainer's own code, but for what torch.compile decides."
    ),
    "traced, validated operations only": (
        "every operation that allocates memory is also in steps that the calculator models, which equal their traces to"
        " the byte."
    ),
    "traced, kernel scratch unchecked": (
        "some operations are in no step that the calculator models. On a GPU, their kernels may need scratch memory"
        " that is not counted."
    ),
    "traced, but a kernel package changes it": (
        "packages that are often installed replace parts of this model, and the step then needs other memory."
    ),
}


def grade_sentence(plan: Estimate) -> str | None:
    """State how a traced answer was found and its grade; None for the calculator's."""
    if plan.trace is None or plan.grade is None:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in plan.trace.versions.items())
    return (
        f"The calculator does not model this step: the modules of {versions} ran on PyTorch's meta device, in"
        f" {plan.trace.seconds:,.1f} s. Grade: {plan.grade}, because {MEANINGS[plan.grade]}"
    )
