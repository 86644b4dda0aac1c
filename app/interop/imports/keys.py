"""The keys of a file. Readers consume them one by one; the remaining ones are listed as not understood."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from app.http.problems import shortened
from app.interop.imports.frozen_parameters import FrozenParameters
from app.interop.imports.imported import Imported, NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The calls of Python code, its arguments that are no literals or are defaults, and the releases that it pins."""

    calls: tuple[str, ...] = ()
    #: The called classes that set up a run and are not modeled: trainers, and configurations of PEFT's methods.
    others: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    #: The expression of the PEFT configuration that a trainer or get_peft_model gets; empty if there is none.
    peft_config: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)
    frozen: FrozenParameters = field(default_factory=FrozenParameters)
    #: The training settings of a loop that Headroom writes. None if there is no such loop.
    loop: Mapping[str, Any] | None = None
    #: The training settings of the rows that Headroom writes for a trainer. Empty if there are none.
    rows: Mapping[str, Any] = field(default_factory=dict)
    #: The number of tokens at which a tokenizer cuts texts. None if the code does not state it.
    cut_length: int | None = None
    #: The method of the bottleneck adapters that Headroom writes. None if there are none.
    adapters: Mapping[str, Any] | None = None
    #: The training settings of rows with images that Headroom writes. Empty if there are none.
    images: Mapping[str, Any] = field(default_factory=dict)


#: Keys that no reader consumes and that are true where they are missing: their false is listed too.
_TRUE_IF_MISSING = frozenset({"tie_word_embeddings"})

_UNREAD = "is not read: it may change the memory of the step"


class Keys:
    """The keys of a file that no reader has consumed yet, and the remarks on those that were."""

    def __init__(self, given: Mapping[str, Any], script: Script | None = None) -> None:
        self._given = given
        self.left = dict(given)
        #: The facts of the script whose arguments the keys are.
        self.script = script or Script()
        self.not_understood: list[NotUnderstood] = []
        self.without_effect: list[str] = []
        self.warnings: list[str] = []
        #: The file's names of renamed keys.
        self._older: dict[str, str] = {}

    def given(self, key: str) -> Any:
        """Return the file's value of a key, consumed or not. None if the file does not have it."""
        return self._given.get(self._older.get(key, key))

    def miss(self, key: str, value: Any, why: str) -> None:
        """Add a key that the request does not reproduce."""
        self.not_understood.append(NotUnderstood(key=self._older.get(key, key), value=shortened(value), why=why))

    def warn(self, settings: str, effect: str, modeled: str) -> None:
        """Warn that settings of the file make it another run than the one that the figures are for."""
        self.warnings.append(
            f"Headroom does not model {settings}. {effect} The figures are for another run: {modeled}."
        )

    def take(self, key: str, default: Any = None) -> Any:
        """Consume a key and return its value, or the tool's default if it is missing or null."""
        value = self.left.pop(key, None)
        return default if value is None else value

    def rename(self, key: str, newer: str) -> None:
        """Give a key the name that it has in newer releases. The newer one counts if the file has both."""
        value = self.take(key)
        if value is None:
            return
        if self.left.get(newer) is None:
            self.left[newer] = value
            self._older[newer] = key
        elif self.left[newer] != value:
            self.miss(key, value, f"is set together with {newer}, which is used")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Consume a boolean."""
        return bool(self._typed(key, default, (bool,), "true or false"))

    def number(self, key: str, default: float) -> float:
        """Consume a number. YAML reads 1e-4 as text; the tools accept it as a number."""
        value = self.left.get(key)
        if isinstance(value, str):
            with suppress(ValueError):
                self.left[key] = float(value)
        number: float = self._typed(key, default, (int, float), "a number")
        return number

    def integer(self, key: str, default: int) -> int:
        """Consume a whole number."""
        value = self.left.get(key)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
            self.left[key] = int(value)
        if isinstance(value, float) and value.is_integer():
            self.left[key] = int(value)
        number: int = self._typed(key, default, (int,), "a whole number")
        return number

    def text(self, key: str) -> str | None:
        """Consume text."""
        text: str | None = self._typed(key, None, (str,), "text")
        return text or None

    def names(self, key: str) -> list[str] | None:
        """Consume a list of names, or names separated by commas."""
        value = self.left.get(key)
        if isinstance(value, str):
            self.left[key] = [part.strip() for part in value.split(",") if part.strip()]
        names = self._typed(key, None, (list,), "a list of names")
        if names and all(isinstance(name, str) and name for name in names):
            return list(names)
        if names:
            self.miss(key, names, "is not a list of names")
        return None

    def choice(self, key: str, choices: Mapping[Any, T], default: T, instead: str) -> T:
        """Consume one of several values and return what it maps to. Any other value is listed, and the default used."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, str | bool | int) and value in choices:
            return choices[value]
        self.miss(key, value, f"is not modeled: {instead} is used")
        return default

    def forget(self, keys: Iterable[str]) -> None:
        """Consume keys that do not change the memory of a step, and list those that the file has."""
        for key in keys:
            if key in self.left:
                del self.left[key]
                self.without_effect.append(key)

    def close(self, format: str, request: dict[str, Any], tool: str = "") -> Imported:  # noqa: A002  the API's word
        """Return the request, and list every remaining key that has a value."""
        for key, value in self.left.items():
            if value or (value is False and key in _TRUE_IF_MISSING):
                self.miss(key, value, _UNREAD)
        return Imported(
            format=format,
            request=request,
            not_understood=tuple(self.not_understood),
            without_effect=tuple(self.without_effect),
            warnings=tuple(self.warnings),
            tool=tool,
        )

    def _typed(self, key: str, default: Any, kinds: tuple[type, ...], wording: str) -> Any:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds):
            return value
        self.miss(key, value, f"is not {wording}: {'nothing' if default is None else default} is used")
        return default
