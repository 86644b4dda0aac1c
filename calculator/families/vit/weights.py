"""ViT with its head for image classification."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed, Config, Field
from calculator.architecture.dimension import Dim, named
from calculator.architecture.model import stack
from calculator.architecture.module import Module, Parameter, bare, linear, norm
from calculator.common.errors import shown
from calculator.families.blocks import Owned, uniform_layers
from calculator.families.classifiers import with_classifier
from calculator.families.family import Family, Parts, TaskModel
from calculator.families.fields import ONE_HEAD_SIZE, activation, dropouts, flag, given_head_dim, layers, size
from calculator.families.vit import forward

if TYPE_CHECKING:
    from calculator.architecture.config import Entry
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task


def _outputs(config: Config) -> Dim:
    """Return the number of labels: those in `id2label` of the file, else `num_labels`, which is 2 by default."""
    listed, stated = config["id2label"], config["num_labels"]
    return Dim(int(stated) if listed is None else len(listed), "num_labels")


def _patch_problem(config: Config) -> str | None:
    """Return an error if a patch is larger than the image.

    Patches cover the image from its first row and column. The remaining pixels at the edges belong to no patch.
    """
    image, patch = config["image_size"], config["patch_size"]
    return None if patch <= image else f"{shown(patch)} is larger than the image, image_size {shown(image)}"


_ENTRIES: tuple[Entry, ...] = (
    size("hidden_size"),
    size("intermediate_size"),
    layers(),
    size("num_attention_heads"),
    *ONE_HEAD_SIZE,
    *given_head_dim(nullable=False),
    activation("gelu"),
    *dropouts("hidden_dropout_prob", "attention_probs_dropout_prob"),
    size("image_size", 224),
    size("patch_size", 16),
    Check(name="patch_size", problem=_patch_problem),
    size("num_channels", 3),
    flag("qkv_bias", True),
    Field(name="id2label", type="object", default=None, nullable=True),
    size("num_labels", 2),
    Computed(
        name="tokens_of_image",
        value=lambda config: (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1,
    ),
    Computed(name="tie_word_embeddings", value=lambda _config: False),
    Computed(name="use_cache", value=lambda _config: False),
)


def _layer(config: Config) -> Owned:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return (
        *(linear(f"attention.{name}_proj", hidden, hidden, bias=config["qkv_bias"]) for name in ("q", "k", "v")),
        linear("attention.o_proj", hidden, hidden, bias=True),
        norm("layernorm_before", hidden, bias=True),
        norm("layernorm_after", hidden, bias=True),
        linear("mlp.fc1", hidden, inner, bias=True),
        linear("mlp.fc2", inner, hidden, bias=True),
    )


def _own_embeddings(hidden: Dim, tokens: Dim) -> Module:
    """Return the class token, which precedes the patches, and the positions of both."""
    sequence = (1, tokens, hidden)
    token = Parameter(name="cls_token", shape=(1, 1, hidden), gradient_base=sequence)
    positions = Parameter(name="position_embeddings", shape=sequence)
    return Module(name="vit.embeddings", kind="other", parameters=(token, positions))


def _vit(config: Config) -> Parts:
    hidden, patch = config["hidden_size"], config["patch_size"]
    kernel = (hidden, config["num_channels"], patch, patch)
    return (
        _own_embeddings(hidden, Dim(config["tokens_of_image"], "patches + 1")),
        bare("vit.embeddings.patch_embeddings.projection", "other", weight=kernel, bias=(hidden,)),
        stack("vit.layers", uniform_layers(config), lambda _kind: _layer(config)),
        norm("vit.layernorm", hidden, bias=True),
        linear("classifier", hidden, _outputs(config), bias=True),
    )


def _classifier(model: Model, task: Task) -> Model:
    """Return ViTForImageClassification with the labels of the request.

    PEFT treats its head as one of the linear layers.
    """
    head = linear("classifier", model.config["hidden_size"], named(task.num_labels, "num_labels"), bias=True)
    return replace(with_classifier(model, "vit.", (head,)), head=None)


FAMILIES = (
    Family(
        model_type="vit",
        auto_class="image-classification",
        entries=_ENTRIES,
        parts=_vit,
        forward=None,
        tasks={"image_cls": TaskModel(model=_classifier, forward=forward.VIT)},
        head=None,
        tied={},
    ),
)
