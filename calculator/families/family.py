"""The description of a model family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from calculator.architecture.config import Config, Entry, read
from calculator.architecture.model import Model, Stack
from calculator.architecture.module import Buffer, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.architecture.task import Task
    from calculator.common.names import TaskName
    from calculator.layers.decoder_forward import DecoderForward

#: The transformers class that builds the model: AutoModel, or AutoModelFor followed by one of CausalLM, Seq2SeqLM,
#: SpeechSeq2Seq, MaskedLM, ImageTextToText and ImageClassification.
AutoClass = Literal[
    "causal", "seq2seq", "speech-seq2seq", "masked-lm", "image-text-to-text", "image-classification", "base"
]

_AUTO_MODELS: dict[AutoClass, str] = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "speech-seq2seq": "AutoModelForSpeechSeq2Seq",
    "masked-lm": "AutoModelForMaskedLM",
    "image-text-to-text": "AutoModelForImageTextToText",
    "image-classification": "AutoModelForImageClassification",
    "base": "AutoModel",
}

#: The transformers classes that build the models for other tasks than that of the family's own class.
TASK_MODELS: dict[TaskName, str] = {
    "seq_cls": "AutoModelForSequenceClassification",
    "token_cls": "AutoModelForTokenClassification",
    "question_ans": "AutoModelForQuestionAnswering",
    "seq_2_seq_lm": "AutoModelForSeq2SeqLM",
    "feature_extraction": "AutoModel",
    "image_cls": "AutoModelForImageClassification",
}

#: Modules and layers in the order of `named_parameters()`, with buffers at any place.
Parts = tuple[Module | Stack | Buffer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskModel:
    """The model of a family for a task: a function that builds it from the model of the file, and its forward pass."""

    model: Callable[[Model, Task], Model]
    forward: DecoderForward


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`: how to read its `config.json`, the model that it describes, and the model's forward pass."""

    model_type: str

    #: The fields of `config.json`, and checks of them.
    entries: tuple[Entry, ...]

    #: The model's modules, layers and buffers.
    parts: Callable[[Config], Parts]

    #: The forward pass of a training step. None if it is not modeled.
    forward: DecoderForward | None

    #: The name of the output head. None for a model without one.
    head: str | None = "lm_head"

    #: The parameters that share the storage of another if `tie_word_embeddings` is true.
    tied: Mapping[str, str] = field(default_factory=lambda: {"lm_head.weight": "model.embed_tokens.weight"})

    #: The parameters that share the storage of another, whatever `tie_word_embeddings` is.
    always_tied: Mapping[str, str] = field(default_factory=dict)

    auto_class: AutoClass = "causal"

    #: The folder of transformers/models with the code, if it is not the family's own.
    folder: str | None = None

    #: The family that replaces one whose code transformers lacks.
    built_as: str | None = None

    notes: tuple[str, ...] = ()

    #: The fields of `text_config`, if the config nests those of the text model.
    text: tuple[Entry, ...] | None = None

    #: A function that converts a file to the form that `entries` read.
    prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    #: Whether `prepare` reads `per_layer_config`.
    sizes_per_layer: bool = False

    #: The path prefixes of modules that a batch of text does not run.
    idle: tuple[str, ...] = ()

    #: The path prefixes of modules that a batch with images does not use.
    idle_with_images: Callable[[Config], tuple[str, ...]] = lambda _config: ()

    #: Whether the model adds the load-balancing loss of its routers to its own if the config sets output_router_logits.
    adds_router_loss: bool = False

    #: The family's own models for other tasks whose step is modeled.
    tasks: Mapping[TaskName, TaskModel] = field(default_factory=dict)

    @property
    def auto_model(self) -> str:
        """The transformers class that builds the model from a config."""
        return _AUTO_MODELS[self.auto_class]

    def auto_model_for(self, task: TaskName) -> str:
        """Return the transformers class that builds the model for a task from a config."""
        reads_audio = task == "seq_2_seq_lm" and self.auto_class == "speech-seq2seq"
        return self.auto_model if reads_audio else TASK_MODELS.get(task, self.auto_model)

    @property
    def source(self) -> str:
        """The file of transformers with the code of the model."""
        folder = self.folder or (self.built_as or self.model_type).replace("-", "_")
        return f"transformers/models/{folder}/modeling_{folder}.py"

    def model(self, raw: Mapping[str, Any], name: str | None = None) -> Model:
        """Return the model of a `config.json`.

        Raises:
            PlanError: with every field that is missing, wrong or contradictory.
        """
        config = read(self.entries, self.prepare(raw))
        parts = self.parts(config)
        return Model(
            model_type=self.built_as or self.model_type,
            config=config,
            parts=tuple(part for part in parts if not isinstance(part, Buffer)),
            head=self.head,
            tied={**self.always_tied, **(self.tied if config["tie_word_embeddings"] else {})},
            buffers=tuple(part for part in parts if isinstance(part, Buffer)),
            id=name,
            notes=self.notes,
            idle=self.idle,
            idle_with_images=self.idle_with_images(config),
            towers=self.idle,
            has_router_loss=self.adds_router_loss,
            adds_router_loss=self.adds_router_loss and bool(config["output_router_logits"]),
        )
