"""Changes of a request as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.forms.fields import FIELDS, METHOD_LABELS, RUN
from calculator.inputs.settings import declared
from calculator.inputs.sharding import ZeroOptimization

if TYPE_CHECKING:
    from collections.abc import Mapping


#: The fields of the settings of a run.
_RUN = {field.name: field for field in RUN}

#: Settings without a form field.
OFFLOADS = {
    option.name: option.setting.label for option in declared(ZeroOptimization) if option.name.startswith("offload_")
}


def changes_text(changes: Mapping[str, object]) -> str:
    """Return changes of a request as text: without gradient checkpointing, with attention sdpa."""
    return ", ".join(_change(loc, value) for loc, value in changes.items())


def _change(loc: str, value: object) -> str:
    if loc == "method.name":
        return METHOD_LABELS[str(value)]
    name = loc.rsplit(".", 1)[-1]
    if name in OFFLOADS:
        return f"with {OFFLOADS[name].lower()}"
    field = _RUN[name] if loc.startswith("run.") else FIELDS[name]
    label = field.declared.setting.label
    label = label[0].lower() + label[1:] if label[1:2].islower() else label
    if value == "no":
        return f"without {label}"
    if isinstance(value, bool):
        return f"with {label}" if value else f"without {label}"
    return f"with {label} {field.text(value) or 'none'}"
