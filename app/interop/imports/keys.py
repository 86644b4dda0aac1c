"""A file's keys, taken one by one; what nobody takes is told."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from app.http.problems import shortened
from app.interop.imports.imported import Imported, NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

_UNREAD = "is not read here: it may change what the step needs"


class Keys:
    """The keys of a file that are still to be taken, and those that are not understood so far."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.left = dict(given)
        self.not_understood: list[NotUnderstood] = []
        self.without_effect: list[str] = []
        self.warnings: list[str] = []

    def miss(self, key: str, value: Any, why: str) -> None:
        """Tell of a key that the request does not hold."""
        self.not_understood.append(NotUnderstood(key=key, value=shortened(value), why=why))

    def warn(self, settings: str, effect: str, modelled: str) -> None:
        """Warn that settings of the file make it another run than the one that the figures are of."""
        self.warnings.append(
            f"Headroom does not model {settings}. {effect} The figures are of another run: {modelled}."
        )

    def take(self, key: str, usual: Any = None) -> Any:
        """A key's value; what the tool takes where it is left out, or null."""
        value = self.left.pop(key, None)
        return usual if value is None else value

    def flag(self, key: str, *, usual: bool = False) -> bool:
        """A boolean."""
        return bool(self._typed(key, usual, (bool,), "true or false"))

    def number(self, key: str, usual: float) -> float:
        """A number; YAML reads 1e-4 as text, which the tools take for a number too."""
        value = self.left.get(key)
        if isinstance(value, str):
            with suppress(ValueError):
                self.left[key] = float(value)
        told: float = self._typed(key, usual, (int, float), "a number")
        return told

    def whole(self, key: str, usual: int) -> int:
        """A whole number."""
        value = self.left.get(key)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
            self.left[key] = int(value)
        if isinstance(value, float) and value.is_integer():
            self.left[key] = int(value)
        told: int = self._typed(key, usual, (int,), "a whole number")
        return told

    def text(self, key: str) -> str | None:
        """Some text."""
        told: str | None = self._typed(key, None, (str,), "text")
        return told or None

    def names(self, key: str) -> list[str] | None:
        """A list of names, or the same between commas."""
        value = self.left.get(key)
        if isinstance(value, str):
            self.left[key] = [part.strip() for part in value.split(",") if part.strip()]
        told = self._typed(key, None, (list,), "a list of names")
        if told and all(isinstance(part, str) and part for part in told):
            return list(told)
        if told:
            self.miss(key, told, "is no list of names")
        return None

    def choice(self, key: str, choices: Mapping[Any, T], usual: T, instead: str) -> T:
        """One of a few values, each with what it stands for; any other is told, and the usual one taken."""
        value = self.take(key)
        if value is None:
            return usual
        if isinstance(value, str | bool | int) and value in choices:
            return choices[value]
        self.miss(key, value, f"is not modelled: {instead} is taken")
        return usual

    def forget(self, keys: Iterable[str]) -> None:
        """Take keys that a step's memory does not depend on; those that are there are named."""
        for key in keys:
            if key in self.left:
                del self.left[key]
                self.without_effect.append(key)

    def close(self, format: str, request: dict[str, Any]) -> Imported:  # noqa: A002  the API's word
        """The request that was read, once all that is left and set to something is told."""
        for key, value in self.left.items():
            if value:
                self.miss(key, value, _UNREAD)
        return Imported(
            format=format,
            request=request,
            not_understood=tuple(self.not_understood),
            without_effect=tuple(self.without_effect),
            warnings=tuple(self.warnings),
        )

    def _typed(self, key: str, usual: Any, kinds: tuple[type, ...], wording: str) -> Any:
        value = self.take(key)
        if value is None:
            return usual
        if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
            return value
        self.miss(key, value, f"is not {wording}: {'nothing' if usual is None else usual} is taken")
        return usual
