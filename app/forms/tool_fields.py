"""The choice of a trainer or tool in a form, and its defaults as text of the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.forms.fields import FIELDS
from app.tools import TOOLS, tool_of
from calculator.estimation.trainer_settings import OF_TRAINERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.tools import Tool
    from calculator.trainers.facts import TrainerDefault

#: The field of the choice.
TOOL = "tool"

#: The hidden field with the tool whose defaults the form has. A change of the tool is noticed without scripts.
SHOWN = "tool_shown"

#: The field of the size whose least value a tool can raise.
BATCH = "micro_batch_size"

#: The hidden field with the batch before a tool raised it; empty if none did. Another tool restores it.
RAISED_FROM = "raised_from"


def _name(path: str) -> str:
    """Return the field of a setting's path."""
    return path.rsplit(".", 1)[-1]


#: Every field that some tool sets, and those that only a trainer's step has.
OWNED: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            "trainer",
            *(_name(default.path) for tool in TOOLS.values() for default in tool.defaults if not default.is_least),
            *OF_TRAINERS,
        )
    )
)


def chosen(submitted: Mapping[str, str], typed: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that the choice of a tool changes in a submitted form or an address.

    Another tool than the form showed sets all of its fields. An address with a tool and without a trainer gets its
    defaults where it has no field of its own. Where the trainer is another one than the tool's, the trainer counts.
    """
    tool = TOOLS.get(typed[TOOL])
    changes: dict[str, str] = {}
    if tool is not None and submitted.get(SHOWN, tool.name) != tool.name:
        before = {BATCH: batch_before(submitted, typed)}
        changes = before | texts(tool, typed["method"], defaults) | raised(tool, {**typed, **before})
    elif tool is not None and SHOWN not in submitted and "trainer" not in submitted:
        given = texts(tool, typed["method"], defaults) | raised(tool, typed)
        changes = {name: text for name, text in given.items() if name not in submitted}
    running = tool_of(typed[TOOL], changes.get("trainer", typed["trainer"]))
    return {**changes, TOOL: "" if running is None or running.is_trainer else running.name}


def texts(tool: Tool, method: str, defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every owned field: a tool's own default, or the form's."""
    method_texts = {
        _name(default.path): text_of(default) for default in tool.defaults if default.path.startswith("method.")
    }
    method_texts |= {_name(path): _text(path, value) for path, value in tool.settings_for(method).items()}
    return {name: method_texts.get(name, defaults[name]) for name in OWNED}


def raised(tool: Tool, typed: Mapping[str, str]) -> dict[str, str]:
    """Return the minimum values of a tool where smaller ones are typed."""
    least = {_name(default.path): default.value for default in tool.defaults_for(typed["method"]) if default.is_least}
    return {name: _text(name, value) for name, value in least.items() if not _is_enough(typed[name], value)}


def batch_before(submitted: Mapping[str, str], typed: Mapping[str, str]) -> str:
    """Return the batch of a form without what its tool raised: the typed one, unless that is the tool's least value."""
    before, tool = submitted.get(RAISED_FROM, ""), TOOLS.get(submitted.get(SHOWN, ""))
    is_raised = tool is not None and raised(tool, {**typed, BATCH: before}) == {BATCH: typed[BATCH]}
    return before if before and is_raised else typed[BATCH]


def _is_enough(text: str, least: int) -> bool:
    """Return whether a typed number is at least a value. Text that is no number is left to its field's check."""
    return not text.strip().isdecimal() or int(text) >= least


def text_of(default: TrainerDefault) -> str:
    """Return a default as the text of its field."""
    return _text(default.path, default.value)


def _text(path: str, value: Any) -> str:
    return FIELDS[_name(path)].text(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSetting:
    """A default of a tool as a page shows it, with the plan's value if that differs."""

    label: str
    value: str
    source: str
    #: The plan's value; empty if it is the tool's.
    instead: str


def settings(tool: Tool, typed: Mapping[str, str]) -> tuple[ToolSetting, ...]:
    """Return the defaults of a tool for the typed method. Options of checkpointing count if it is on."""
    rows = []
    for default in tool.defaults_for(typed["method"]):
        field, text = FIELDS[_name(default.path)], text_of(default)
        unused = _name(default.path) == "use_reentrant" and typed["gradient_checkpointing"] != "true"
        same = typed[field.name] == text or (unused and typed[field.name] == "false")
        same |= default.is_least and _is_enough(typed[field.name], default.value)
        rows.append(
            ToolSetting(
                label=field.declared.setting.label,
                value=f"at least {text}" if default.is_least else _shown(text),
                source=default.source,
                instead="" if same else _shown(typed[field.name]),
            )
        )
    return tuple(rows)


def _shown(text: str) -> str:
    return {"": "none", "true": "on", "false": "off"}.get(text, text)
