"""The base class of TRL's preference trainers.

Source: trl/trainer/dpo_trainer.py, kto_trainer.py and reward_trainer.py of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.common.errors import Problem
from calculator.stack.releases import release
from calculator.stack.trainers import is_older_trainer
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl import check, older, qlora, routers, sentences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.resident.module_spec import ModuleSpec
    from calculator.stack.releases import Release
    from calculator.trainers.subject import Subject


class TrlTrainer(Transformers):
    """A subclass of transformers.Trainer with TRL's own loss, for one release of TRL."""

    __slots__ = ()
    #: The releases whose step is modeled.
    releases: ClassVar[tuple[Release, ...]] = ((1, 16),)
    #: Values of `loss_type` that are not modeled, and why.
    other_losses: ClassVar[dict[str, str]] = {}

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that the trainer refuses, or that are not modeled."""
        training, trl = prepared.training, prepared.stack.trl
        if self.is_older(prepared.stack):
            yield from older.problems(prepared, self.facts)
        elif release(trl)[:2] not in self.releases:
            known = older.named(prepared.training.trainer)
            message = f"{self.facts.label} is modeled with TRL 1.16{known}: use one of these releases"
            yield Problem(loc="stack.trl", msg=message, input=trl)
        if training.loss_type is not None and training.loss_type not in self.losses:
            yield self._loss_problem(training.loss_type)
        for name in ("packing", "padding_free"):
            if getattr(training, name):
                message = f"{self.facts.label} trains on padded rows: use false"
                yield Problem(loc=f"training.{name}", msg=message, input=True)
        if training.sequence_lengths is not None:
            message = f"sample lengths are not modeled for {self.facts.label}: give only sequence_length"
            yield Problem(loc="training.sequence_lengths", msg=message, input=training.sequence_lengths)
        yield from check.model_problems(prepared, self.facts)
        yield from self.router_problems(prepared)
        yield from check.four_bit_problems(prepared)

    @classmethod
    def is_older(cls, stack: StackVersions) -> bool:
        """Return whether the release of TRL is an older one with code of its own."""
        return is_older_trainer(cls.name, stack)

    def router_problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield models for which the routers' loss is not modeled.

        These trainers add it to their own loss only if the config requests it.
        """
        if prepared.model.config.get("output_router_logits"):
            yield routers.unused(self.facts.label.removeprefix("TRL "))

    def _loss_problem(self, given: str) -> Problem:
        """Return why a value of `loss_type` is refused."""
        way_out = f"use one of {', '.join(self.losses)}" if self.losses else "leave it out"
        reason = self.other_losses.get(given, "is no loss of this trainer that is modeled")
        return Problem(loc="training.loss_type", msg=f"{self.facts.label}: {given} {reason}: {way_out}", input=given)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield sentences on the memory that the loop adds, and on TRL's casts."""
        yield from Transformers.assumptions(self, prepared)
        if self.is_older(prepared.stack):
            yield from older.sentences(prepared, self.layer_outputs(prepared))
        if in_4_bits(prepared) and not qlora.leaves_alone(prepared.training, prepared.stack):
            by_trl = qlora.prepares(prepared.training, prepared.stack)
            yield (sentences.prepared_by_trl if by_trl else sentences.casts_to_bfloat16)(prepared.stack)

    def warnings(self, prepared: Subject) -> Iterator[str]:
        """Yield the settings in which the request differs from the config's defaults."""
        training, trainer = prepared.training, self.facts.label.removeprefix("TRL ")
        yield from sentences.defaults(training, trainer.replace("Trainer", "Config"), self.defaults(prepared.stack))
        is_prepared = in_4_bits(prepared) and prepared.method.hidden_dtype(training) != training.dtype
        if is_prepared and not qlora.prepares(training, prepared.stack):
            yield sentences.prepared_by_script(prepared.stack)
        elif training.dtype != "float32" and not self.is_older(prepared.stack):
            yield sentences.loaded_in_float32(training, trainer)

    def defaults(self, stack: StackVersions) -> tuple[str, ...]:
        """Return the arguments that are true by default in a release of TRL."""
        return tuple(older.TRUE_BY_DEFAULT) if not self.is_older(stack) else older.defaults(stack)

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:
        """Return how a module is stored, in the dtypes that TRL casts a 4-bit model to."""
        return qlora.module_spec(prepared, path, spec) if in_4_bits(prepared) else spec

    def uses_cache(self, model: Model, stack: StackVersions) -> bool:  # noqa: ARG002  a hook's signature
        """Return False: these trainers pass use_cache=False to the model."""
        return False

    def is_reentrant(self, context: Context) -> bool:
        """Return whether checkpointing is re-entrant.

        Older releases leave the default to transformers, and to PyTorch for 4-bit models. Later ones set it false.
        """
        if not self.is_older(context.prepared.stack):
            return context.training.use_reentrant
        by_trl = context.training.gradient_checkpointing_kwargs is None and qlora.is_prepared_by_trl(context.prepared)
        return by_trl or Transformers.is_reentrant(self, context)

    def hidden_dtype(self, prepared: Subject) -> DType:
        """Return the dtype of the word embeddings."""
        table = next(module for module in prepared.model.outer.values() if module.kind == "embedding")
        return prepared.module_spec(table.name, table).dtype


def in_4_bits(prepared: Subject) -> bool:
    """Return whether bitsandbytes stores the base model in 4 or 8 bits."""
    stored = prepared.method.base_quantization(prepared.training)
    return stored is not None and stored.is_bitsandbytes
