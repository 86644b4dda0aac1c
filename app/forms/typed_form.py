"""The typed text of a page's form, and the address that repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from app.forms.layout import gpu_id

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedForm:
    """The typed text of every field, and the names in the address that no field has."""

    #: The text of every field at the bare address.
    defaults: ClassVar[Mapping[str, str]]

    typed: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def unused(self) -> tuple[str, ...]:
        """The fields that the form does not show, because they have no effect with the other fields."""
        return ()

    @property
    def card(self) -> str:
        """The catalogue id of the typed GPU; empty if the catalogue lacks it."""
        return gpu_id(self.typed["gpu"])

    def query(self, **changes: str) -> dict[str, str]:
        """Return the fields that differ from the bare address, with changes. A config replaces the model."""
        fields = {name: text for name, text in {**self.typed, **changes}.items() if text != self.defaults[name]}
        if fields.get("config", "").strip():
            fields.pop("model", None)
        return fields

    def address(self, **changes: str) -> str:
        """Return the query string of this form, with changes."""
        fields = self.query(**changes)
        return f"?{urlencode(fields)}" if fields else ""
