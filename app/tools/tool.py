"""A trainer, or a tool that runs one, with its own defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calculator.inputs.settings import declared
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import TrainerName
    from calculator.trainers.facts import TrainerDefault


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A trainer of the request's field, or a program that trains with one."""

    name: str
    label: str
    #: The trainer whose step it runs; None for the reference step.
    trainer: TrainerName | None
    #: Sentences about the settings that the choice changes.
    summary: str
    source: str
    defaults: tuple[TrainerDefault, ...] = ()
    #: Sentences about features that are not modeled. Empty if the whole step is modeled.
    not_modelled: str = ""

    @property
    def is_trainer(self) -> bool:
        """Whether a request names it: its name is then that of the trainer."""
        return self.trainer is None or self.name == self.trainer

    def defaults_for(self, method: str) -> Iterator[TrainerDefault]:
        """Yield its defaults for a method that a request may name."""
        if method not in METHODS:
            return
        kind: Any = METHODS[method]
        settings = {f"method.{field.name}" for field in declared(kind)}
        for default in self.defaults:
            is_of_method = not default.path.startswith("method.") or default.path in settings
            if is_of_method and default.trains_base in (None, kind.facts.trains_base):
                yield default

    def settings_for(self, method: str) -> dict[str, Any]:
        """Return the values of a method's run by their paths in a request, the trainer among them."""
        return {
            "training.trainer": self.trainer,
            **{default.path: default.value for default in self.defaults_for(method)},
        }
