"""Configs that nest the config of a text model or a vision tower."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.config import Check, Computed, Field, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from calculator.architecture.config import Config, Entry

#: The fields that belong to the outer config if a file does not nest those of the text model.
_OUTER = ("model_type", "vision_config", "architectures", "torch_dtype", "dtype", "transformers_version")


def nested(name: str, entries: tuple[Entry, ...]) -> tuple[Field, Computed]:
    """Declare a nested config. Null means the defaults of the class."""
    field = Field(name=name, type="object", default=None, nullable=True)
    return field, Computed(name=name, value=lambda config: read(entries, config[name] or {}, f"model.config.{name}"))


def optional(name: str, entries: tuple[Entry, ...]) -> tuple[Field, Computed]:
    """Declare a nested config of a part of the model. Null means that the model lacks the part."""
    field = Field(name=name, type="object", default=None, nullable=True)

    def value(config: Config) -> Config | None:
        return None if config[name] is None else read(entries, config[name], f"model.config.{name}")

    return field, Computed(name=name, value=value)


def from_text(entries: tuple[Entry, ...]) -> tuple[Computed, ...]:
    """Copy the values of the text model to the outer config, from which the training step reads them."""
    names = dict.fromkeys(entry.name for entry in entries if not isinstance(entry, Check))
    return tuple(_text_value(name) for name in names)


def _text_value(name: str) -> Computed:
    return Computed(name=name, value=lambda config: config["text_config"][name])


def with_defaults(entries: Iterable[Entry], defaults: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Set the defaults of fields. A file's `text_config` is saved as the difference from the defaults of its class."""
    return tuple(
        replace(entry, default=defaults[entry.name]) if isinstance(entry, Field) and entry.name in defaults else entry
        for entry in entries
    )


def text_at_the_top(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nest the fields of the text model, for files on the hub that have them at the top level."""
    if raw.get("text_config") is not None:
        return raw
    outer = {key: value for key, value in raw.items() if key in _OUTER or key.endswith("_token_id")}
    return {
        **outer,
        "text_config": {key: value for key, value in raw.items() if key not in outer or key == "pad_token_id"},
    }
