"""The assumptions of an answer about a task other than causal language modeling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation import audio_requests, image_classification
from calculator.estimation.image_requests import CONVOLUTION
from calculator.families.family import TASK_MODELS
from calculator.methods.targeted.modules_to_save import is_saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.common.names import ProblemType
    from calculator.methods.base import Method

#: Source: transformers/models/bart/modeling_bart.py and t5/modeling_t5.py, the forward of their models with a head.
SEQ_2_SEQ = (
    "A batch has sources of sequence_length tokens and targets of target_length tokens, which are the labels and,"
    " shifted right, the decoder's input. Targets have no mask of their own. Layers are never"
    " dropped at random (layerdrop)."
)

#: Source: sentence_transformers/models/Pooling.py and losses/MultipleNegativesRankingLoss.py.
FEATURE_EXTRACTION = (
    "Each example has {texts}, each embedded by a forward pass of its own: the mean of the hidden states over the"
    " attention mask, which a batch always has and the model gets if training.padding is set. The loss is that of"
    " sentence-transformers' MultipleNegativesRankingLoss: cross entropy over the cosine similarities, times 20, of"
    " each anchor with all other texts of the micro-batch. PEFT's model for the task computes none."
)

#: By loss, what a batch has for each sequence.
_LABELS: dict[ProblemType, str] = {
    "regression": "a number for each output",
    "single_label_classification": "one label",
    "multi_label_classification": "a number for each label, in the model's dtype",
}


def assumptions(model: Model, method: Method, texts: int) -> Iterator[str]:
    """Yield which class builds the model, how its head is trained, and what a script must set.

    `texts` is the number of texts per example if texts are embedded.
    """
    task = model.task
    if task.embeds:
        yield f"The model is that of {TASK_MODELS[task.name]}, without a head."
        named = "an anchor and its positive" if texts == 2 else f"{texts} texts: an anchor, its positive and negatives"
        yield FEATURE_EXTRACTION.format(texts=named)
    if model.reads_audio:
        yield from _audio_sentences(model, method)
    elif task.name == "seq_2_seq_lm":
        yield SEQ_2_SEQ
        if model.config.get("decoder_start_token_id", 0) is None:
            yield (
                "The config has no decoder_start_token_id, without which transformers makes no input of the decoder:"
                " the script is assumed to set it."
            )
    if task.name == "image_cls":
        yield from _image_sentences(model, method)
    if not task.trains_head:
        return
    yield f"The model is that of {TASK_MODELS[task.name]}, {_head_and_loss(task)}"
    if not method.facts.trains_base and not _finds_head(model):
        yield (
            f"PEFT trains heads of the names {' and '.join(task.head_names)} for {task.name}, which"
            f" {model.model_type} does not have: its head {model.head} is frozen unless modules_to_save names it."
        )
    elif not method.facts.trains_base:
        copies = method.classifier_copy is not None
        yield "PEFT copies the head and trains the copy in full." if copies else "The head is trained in full too."
    if task.name == "seq_cls" and model.config.get("pad_token_id", 0) is None:
        yield (
            "The config has no pad_token_id, without which transformers refuses a batch of several sequences: the"
            " script is assumed to set it."
        )


def _audio_sentences(model: Model, method: Method) -> Iterator[str]:
    """Yield sentences on a batch of audio, and on PEFT without its class for sequence-to-sequence models."""
    yield audio_requests.sentence(model)
    yield "Memory that the convolutions may need in addition to their results is not counted."
    if method.facts.config_class is not None:
        yield (
            "PEFT's configuration has no task_type: PeftModelForSeq2SeqLM passes input_ids to the model, which"
            f" {model.model_type} does not accept."
        )


def _image_sentences(model: Model, method: Method) -> Iterator[str]:
    """Yield sentences on a batch of images, and on the head, which PEFT trains only with `modules_to_save`."""
    yield f"The model is that of {TASK_MODELS['image_cls']}, {_head_and_loss(model.task)}"
    yield image_classification.sentence(model)
    yield CONVOLUTION
    if method.facts.config_class is not None and not is_saved("classifier", getattr(method, "modules_to_save", None)):
        yield (
            "PEFT has no TaskType for images, and freezes the new head: set modules_to_save to classifier to train it."
        )


def _finds_head(model: Model) -> bool:
    """Return whether the model has a head with a name that PEFT looks for."""
    return any(is_saved(path, model.task.head_names) for path in model.outer)


def _head_and_loss(task: Task) -> str:
    """Return a clause on the head of a task and the labels of a batch."""
    outputs = "1 output" if task.num_labels == 1 else f"{task.num_labels:,} outputs"
    if task.name in ("seq_cls", "image_cls"):
        labels = f"{_LABELS[task.loss]} for each {'sequence' if task.name == 'seq_cls' else 'image'}"
        return f"whose head has {outputs}. The loss is that of {task.loss}: a batch has {labels}."
    if task.name == "token_cls":
        return f"whose head has {outputs} for each token. The loss is that of one label for each token."
    return (
        "whose head has two outputs for each token. The loss is the mean of those of an answer's first and last token:"
        " a batch has two positions for each sequence."
    )
