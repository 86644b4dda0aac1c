"""The options of an optimizer as `TrainingArguments.optim_args` writes them: `rank=64, update_proj_gap=100`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.inputs.training import Training
    from calculator.resident.projection import ProjectionType

#: The maximum number of characters of the text.
LONGEST = 500
#: The largest number that an option accepts.
LARGEST = 1_000_000


def _is_number(value: str) -> bool:
    return bool(re.fullmatch(r"\d{1,7}", value)) and 1 <= int(value) <= LARGEST


def _is_decimal(value: str) -> bool:
    return bool(re.fullmatch(r"\d{1,9}(\.\d{1,12})?(e-?\d{1,2})?", value))


def _one_of(*choices: str) -> tuple[Callable[[str], bool], str]:
    return choices.__contains__, " or ".join(choices)


_TYPES: tuple[ProjectionType, ...] = ("std", "reverse_std", "left", "right")

#: By option, whether a value is modeled, and the accepted values in words. Source: transformers/trainer_optimizer.py,
#: _get_galore_optimizer and _get_apollo_optimizer.
_PROJECTED: dict[str, tuple[Callable[[str], bool], str]] = {
    "rank": (_is_number, f"a whole number from 1 to {LARGEST:,}"),
    "update_proj_gap": (_is_number, f"a whole number from 1 to {LARGEST:,}"),
    "scale": (_is_decimal, "a number"),
    "proj_type": _one_of(*_TYPES),
}
_APOLLO = {**_PROJECTED, "proj": _one_of("random", "svd"), "scale_type": _one_of("channel", "tensor")}


def options(text: str | None) -> dict[str, str]:
    """Return the values by name. Text that is not an assignment gets an empty value."""
    parts = (part.partition("=") for part in (text or "").replace(" ", "").split(",") if part)
    return {name: value for name, _, value in parts}


def problems(training: Training) -> Iterator[Problem]:
    """Yield options and targets that the optimizer doesn't have, and values that it doesn't accept."""
    optimizer, text = OPTIMIZERS[training.optimizer], training.optim_args
    if not optimizer.projects:
        message = "only the optimizers that project gradients read it (galore_adamw, apollo_adamw, ...): leave it out"
        if text is not None:
            yield Problem(loc="training.optim_args", msg=message, input=text)
        if training.optim_target_modules is not None:
            yield Problem(loc="training.optim_target_modules", msg=message, input=training.optim_target_modules)
        return
    if training.optim_target_modules is None:
        message = f'{training.optimizer} needs the names of the modules whose gradients it projects: use "all-linear"'
        yield Problem(loc="training.optim_target_modules", msg=message, input=None)
    if text is not None and len(text) > LONGEST:
        yield Problem(loc="training.optim_args", msg=f"must have at most {LONGEST} characters", input=text)
        return
    names = _APOLLO if optimizer.projects == "random" else _PROJECTED
    for name, value in options(text).items():
        if name not in names:
            yield Problem(
                loc="training.optim_args", msg=f"{name} is not one of {', '.join(names)}: leave it out", input=text
            )
        elif not names[name][0](value):
            yield Problem(loc="training.optim_args", msg=f"{name} must be {names[name][1]}", input=text)
