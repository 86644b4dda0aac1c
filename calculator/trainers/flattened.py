"""Micro-batches whose samples form one row: what is not modeled, and what an answer assumes.

Source: transformers/data/data_collator.py, DataCollatorWithFlattening; trl/trainer/sft_trainer.py,
DataCollatorForLanguageModeling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import forward_of
from calculator.inputs.training import DrawnRow
from calculator.layers.masks import is_recurrent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.training import Training
    from calculator.trainers.subject import Subject


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield why packed or flattened rows are refused."""
    training = prepared.training
    if training.padding and (training.packing or training.flattened):
        yield Problem(loc="training.padding", msg="packed and flattened rows have no padding: use false", input=True)
    yield from _model_problems(prepared) if training.flattened else ()


def _model_problems(prepared: Subject) -> Iterator[Problem]:
    training, model = prepared.training, prepared.model
    name = "packing" if training.packing else "padding_free"
    if not forward_of(model).flattens:
        message = f"{name} is not modeled for {model.model_type}: use false"
        yield Problem(loc=f"training.{name}", msg=message, input=True)
    if is_recurrent(model):
        message = f"{name} needs the package causal_conv1d for {model.model_type}, which is not modeled: use false"
        yield Problem(loc=f"training.{name}", msg=message, input=True)
    if prepared.method.virtual_tokens:
        message = f"PEFT drops the positions of {name} where it adds virtual tokens: use false"
        yield Problem(loc=f"training.{name}", msg=message, input=True)


def assumptions(training: Training) -> Iterator[str]:
    """Yield sentences on a flattened micro-batch, and on what separates its samples."""
    if not training.flattened:
        return
    tokens = training.micro_batch_size * training.sequence_length
    samples = f"{training.samples:,} sample{'s' if training.samples > 1 else ''}"
    assumed = training.packing and not isinstance(training, DrawnRow)
    counted = " Each packed row counts as one, the only row as two." if assumed else ""
    yield f"A micro-batch is one row of {tokens:,} tokens with {samples}, without padding (padding_free).{counted}"
    if training.attention != "flash_attention_2" and training.samples > 1:
        yield (
            f"With {training.attention}, a mask of {tokens:,} × {tokens:,} tokens keeps the samples of a row apart. "
            "With flash_attention_2 there is no mask."
        )
