"""The settings of full fine-tuning: which parameters are trained, and whether they change during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from calculator.inputs.settings import setting
from calculator.methods.base import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSettings(Method):
    """The settings of full fine-tuning, named as in axolotl, LLaMA-Factory and badam."""

    unfrozen_parameters: tuple[str, ...] | None = setting(
        None,
        label="Unfrozen parameters",
        help="The starts of the names of the parameters that are trained, or regular expressions for them, as in"
        " axolotl; null trains all.",
        example=("model.layers.30.", "model.layers.31.", "lm_head"),
        empty="all",
    )

    unfrozen_dtype: Literal["model", "float32"] = setting(
        "model",
        label="Data type of unfrozen parameters",
        help="That of the model, or float32, to which LLaMA-Factory casts them; it needs autocast.",
    )

    use_badam: bool = setting(
        False,
        label="BAdam",
        help="Train one block of layers at a time, in a copy in float32, and drop the optimizer's states when the block"
        " changes (LLaMA-Factory's use_badam, BlockOptimizer of badam). The figures are for the fullest block.",
    )

    badam_mode: Literal["layer", "ratio"] = setting(
        "layer", label="BAdam's mode", help="What BAdam trains in turn: layers, or a share of every matrix."
    )

    badam_switch_mode: Literal["ascending", "descending", "random", "fixed"] = setting(
        "ascending",
        label="BAdam's order",
        help="The order of BAdam's blocks. With fixed, badam_start_block alone is trained.",
    )

    badam_switch_interval: int = setting(
        50,
        label="BAdam's interval",
        help="The steps until BAdam changes the block and drops the optimizer's states. With 1, no states are kept"
        " between steps.",
        minimum=1,
        maximum=1_000_000_000,
        unit="steps",
    )

    badam_start_block: int | None = setting(
        None,
        label="BAdam's first block",
        help="The number of BAdam's first block, from 0; null means the first one of the order.",
        minimum=0,
        maximum=100_000,
        example=0,
        empty="by the order",
    )

    include_embedding: bool = setting(
        False,
        label="BAdam trains embeddings",
        help="Whether the embeddings are a block of BAdam (include_embedding of BlockOptimizer).",
    )

    include_lm_head: bool = setting(
        False,
        label="BAdam trains the head",
        help="Whether the output head, with everything else outside the layers, is a block of BAdam (include_lm_head of"
        " BlockOptimizer). The embeddings belong to it unless they are a block.",
    )

    lisa_n_layers: int | None = setting(
        None,
        label="LISA's layers",
        help="Train so many layers at a time, drawn at random, and all weights outside the layers, as axolotl does"
        " (lisa_n_layers). The optimizer keeps the states of every layer that it has trained.",
        minimum=1,
        maximum=100_000,
        example=2,
        empty="all",
    )

    lisa_step_interval: int = setting(
        20,
        label="LISA's interval",
        help="The steps until LISA draws other layers (lisa_step_interval). It changes no figure.",
        minimum=1,
        maximum=1_000_000_000,
        unit="steps",
    )
