"""A pass of `generate` under FSDP2, in the step of a trainer that generates, or in an evaluation.

transformers' Trainer registers `generate` as a forward method of the root. If PEFT wraps the model, no pass inside
`generate` is a forward pass of the root. The output of the last all-gather then stays alive until the next pass copies
another one out.

Source: torch/distributed/fsdp/_fully_shard/_fsdp_state.py, _post_forward; transformers/trainer.py,
_prepare_for_training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.sharding.fsdp.evaluation import EvaluationBatch
from calculator.sharding.fsdp.units import ALL_GATHER_OUTPUT

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import Parameters
    from calculator.methods.prepared_model import PreparedModel
    from calculator.sharding.fsdp.units import UnitParameters

#: A pass of `generate`: that of the prompts, that of the second token, or that of a later token.
PassOf = Literal["prompts", "second token", "later token"]


class GenerationPass(EvaluationBatch):
    """The hooks of a pass inside the root's `generate`."""

    __slots__ = ("_which",)

    def __init__(self, prepared: PreparedModel, which: PassOf, *, is_first: bool = True) -> None:
        super().__init__(prepared, None)
        self.finds_gathered = which != "prompts" or not is_first
        self.runs_autocast = False
        self._which = which

    @property
    def _is_inside(self) -> bool:
        """Whether the model that runs is inside the root."""
        return self.prepared.method.facts.config_class is not None

    def begin(self, parameters: Parameters) -> None:
        """Restore what the previous pass left gathered, and the output of its last all-gather."""
        super().begin(parameters)
        if self._is_inside and self._which != "prompts":
            last = self._gathered_last()
            self.kept_buffer = self._new_tensor(*last.all_gather_output, last.name + ALL_GATHER_OUTPUT)

    def _gathered_last(self) -> UnitParameters:
        """Return the unit that the previous pass gathered last. The head stays gathered after the first pass."""
        tail = self.roles["head"]
        ends = tail is not self.roles["embeddings"] and bool(tail.param_group.parameters)
        if ends and (self._which == "second token" or not self.reshards):
            return tail.param_group
        return self.parameters_of(self.prepared.model.layers[-1])

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """End the pass.

        Unless the model is inside the root, this also ends the root's own forward pass.
        """
        return (loss, outputs) if self._is_inside else super().end(loss, outputs)
