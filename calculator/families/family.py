"""What a model family is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from calculator.architecture.config import Config, Entry, read
from calculator.architecture.model import Model, Stack
from calculator.architecture.module import Buffer, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The transformers class that a model is built with: AutoModelFor{CausalLM, Seq2SeqLM, MaskedLM, ImageTextToText} or
#: AutoModel.
AutoClass = Literal["causal", "seq2seq", "masked-lm", "image-text-to-text", "base"]

#: What a model owns, in the order of `named_parameters()`, buffers wherever they read best.
Parts = tuple[Module | Stack | Buffer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`: how its `config.json` is read, and what model that describes.

    `parts` lists what the model owns. `tied` names parameters that share another's storage
    where `tie_word_embeddings` is true. `folder` is where transformers has the code, where not in the family's own.
    `built_as` is the family that stands in for one whose code transformers doesn't have. `idle` names what a batch of
    text alone leaves out, by the beginnings of paths.
    """

    model_type: str
    entries: tuple[Entry, ...]
    parts: Callable[[Config], Parts]
    head: str | None = "lm_head"
    tied: Mapping[str, str] = field(default_factory=lambda: {"lm_head.weight": "model.embed_tokens.weight"})
    auto_class: AutoClass = "causal"
    folder: str | None = None
    built_as: str | None = None
    notes: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The file of transformers that builds the same model."""
        folder = self.folder or (self.built_as or self.model_type).replace("-", "_")
        return f"transformers/models/{folder}/modeling_{folder}.py"

    def model(self, raw: Mapping[str, Any], name: str | None = None) -> Model:
        """The model that this `config.json` describes.

        Raises:
            PlanError: with every field that is missing, wrong or contradictory.
        """
        config = read(self.entries, raw)
        parts = self.parts(config)
        return Model(
            model_type=self.built_as or self.model_type,
            config=config,
            parts=tuple(part for part in parts if not isinstance(part, Buffer)),
            head=self.head,
            tied=self.tied if config["tie_word_embeddings"] else {},
            buffers=tuple(part for part in parts if isinstance(part, Buffer)),
            id=name,
            notes=self.notes,
            idle=self.idle,
        )
