"""The micro-batch of Unsloth: transformers' Trainer with a patched model.

Source: unsloth/models/rl_replacements.py, sft_trainer_compute_loss, which leaves the loss to the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import named
from calculator.families import forward_of
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.unsloth import buffers, check, sentences
from calculator.trainers.unsloth.facts import FACTS
from calculator.trainers.unsloth.families import UNSLOTH_FAMILIES, has_rows
from calculator.trainers.unsloth.forward import patched
from calculator.trainers.unsloth.frequencies import with_frequencies
from calculator.trainers.unsloth.labeled_loss import labeled_loss
from calculator.trainers.unsloth.loss import fused_loss
from calculator.trainers.unsloth.releases import is_rewritten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.errors import Problem
    from calculator.common.names import TrainerName
    from calculator.inputs.stack import StackVersions
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.loss import LossHead
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor
    from calculator.trainers.subject import Subject


class Unsloth(Transformers):
    """The loop of SFTTrainer with a model of Unsloth's FastLanguageModel."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "unsloth"
    facts = FACTS

    #: Source: unsloth/utils/packing.py; unsloth/utils/attention_dispatch.py, run_attention.
    packing_refusal: ClassVar[str] = (
        "Unsloth joins samples in one row without a mask: the interval without packing contains it, but for some"
        " kilobytes of bounds; leave it out, and give the length of a full row"
    )

    def problems(self, prepared: Subject) -> Iterator[Problem]:
        """Yield settings that Unsloth refuses, or that are not modeled."""
        yield from super().problems(prepared)
        yield from check.problems(prepared)

    def assumptions(self, prepared: Subject) -> Iterator[str]:
        """Yield the assumptions of the figures, and a sentence on the ends of the interval."""
        yield from sentences.assumptions(prepared)

    def warnings(self, prepared: Subject) -> Iterator[str]:
        """Yield Unsloth's own defaults that differ from the request."""
        yield from sentences.warnings(prepared)

    def reasons(self, prepared: Subject) -> Iterator[str]:
        """Yield why the answer is an interval."""
        yield from sentences.reasons(prepared)

    def model(self, model: Model, stack: StackVersions) -> Model:  # noqa: ARG002  a hook's signature
        """Return the model with the buffers of Unsloth's rotary embedding."""
        return with_frequencies(model) if model.model_type in UNSLOTH_FAMILIES else model

    def module_spec(self, prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:  # noqa: ARG002  a hook's signature
        """Return how a module is stored: adapters in float32, everything else as it was loaded.

        Nothing is prepared for k-bit training. With use_gradient_checkpointing="unsloth", the originals of copied
        modules are in a file.
        """
        added = tuple(replace(parameter, dtype="float32") for parameter in spec.added)
        in_file = spec.copied is not None and buffers.offloads_modules(prepared.training)
        return replace(spec, added=added, dtype=prepared.training.dtype, original_in_file=in_file)

    def hidden_dtype(self, prepared: Subject) -> DType:
        """Return the dtype that the model was loaded in."""
        return prepared.training.dtype

    def forward(self, prepared: Subject) -> DecoderForward:
        """Return the family's forward pass with Unsloth's modules."""
        family = UNSLOTH_FAMILIES[prepared.model.model_type]
        return patched(forward_of(prepared.model), family, rewritten=is_rewritten(prepared.stack))

    def fetched(self, prepared: Subject) -> list[tuple[str, Shape, DType]]:
        """Return the tensors of a micro-batch. From 2026.10 on, rows have no padding: positions replace the mask."""
        tensors = super().fetched(prepared)
        if not has_rows(prepared.stack, prepared.model.model_type):
            return tensors
        names = {"attention_mask": "position_ids"}
        lengths: tuple[str, Shape, DType] = (
            "packed_seq_lengths",
            (named(prepared.training.micro_batch_size, "B"),),
            "int32",
        )
        return [*((names.get(name, name), shape, dtype) for name, shape, dtype in tensors), lengths]

    def is_reentrant(self, context: Context) -> bool:  # noqa: ARG002  a hook's signature
        """Return True: checkpointing is re-entrant whatever the request says."""
        return True

    def offloads_inputs(self, prepared: Subject) -> bool:
        """Return whether the inputs of all layers but the last are moved to host memory."""
        return buffers.offloads(prepared.model, prepared.training)

    def buffers(self, prepared: Subject) -> Iterable[ResidentTensor]:
        """Return the tables of the rotary embedding and Unsloth's own buffers."""
        return buffers.buffers(prepared)

    def host_bytes(self, prepared: Subject) -> int | None:
        """Return the bytes of the host buffers for inputs of layers."""
        return buffers.host_bytes(prepared)

    def head(self, context: Context) -> LossHead:
        """Return Unsloth's output head and loss."""
        return labeled_loss if is_rewritten(context.prepared.stack) else fused_loss
