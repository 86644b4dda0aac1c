"""TRL's trainers that compare the policy with a reference: what DPOTrainer and KTOTrainer share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.trainers.trl import check
from calculator.trainers.trl.compared import compared, copies_problems, sentence
from calculator.trainers.trl.trainer import TrlTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.errors import Problem
    from calculator.trainers.loop import Compared
    from calculator.trainers.subject import Subject


class ComparingTrainer(TrlTrainer):
    """A trainer with a reference: a second model, adapters that are switched off, or copies of them."""

    __slots__ = ()

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield what the trainer refuses, and what of it is not modelled."""
        yield from TrlTrainer.problems(self, prepared)
        yield from check.head_problems(prepared)
        yield from copies_problems(prepared) if self.compared(prepared) == "adapter copies" else ()

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield what the reference is."""
        yield from TrlTrainer.assumptions(self, prepared)
        yield self.reference_sentence(prepared)

    def reference_sentence(self, prepared: Subject) -> str:
        """Return what the reference is, and what it keeps in memory."""
        return sentence(prepared)

    def compared(self, prepared: Subject) -> Compared | None:
        """Return what the reference is."""
        return compared(prepared)
