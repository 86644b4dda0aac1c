"""What a model family is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from calculator.config import Config, Entry, read
from calculator.model import Model, Stack
from calculator.module import Buffer, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The transformers class that a model is built with: AutoModelFor{CausalLM, Seq2SeqLM, MaskedLM, ImageTextToText} or
#: AutoModel.
AutoClass = Literal["causal", "seq2seq", "masked-lm", "image-text-to-text", "base"]

Parts = tuple[Module | Stack, ...]


def no_buffers(_config: Config) -> tuple[Buffer, ...]:
    """A family without buffers."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`: how its `config.json` is read, and what model that describes.

    `parts` lists the modules in the order of `named_parameters()`. `tied` names parameters that share another's storage
    where `tie_word_embeddings` is true. `source` is the file of transformers that builds the same.
    """

    model_type: str
    source: str
    entries: tuple[Entry, ...]
    parts: Callable[[Config], Parts]
    buffers: Callable[[Config], tuple[Buffer, ...]] = no_buffers
    head: str | None = "lm_head"
    tied: Mapping[str, str] = field(default_factory=lambda: {"lm_head.weight": "model.embed_tokens.weight"})
    auto_class: AutoClass = "causal"
    notes: tuple[str, ...] = ()

    def model(self, raw: Mapping[str, Any], name: str | None = None) -> Model:
        """The model that this `config.json` describes.

        Raises:
            PlanError: with every field that is missing, wrong or contradictory.
        """
        config = read(self.entries, raw)
        return Model(
            model_type=self.model_type,
            config=config,
            parts=self.parts(config),
            head=self.head,
            tied=self.tied if config["tie_word_embeddings"] else {},
            buffers=self.buffers(config),
            id=name,
            notes=self.notes,
        )
