"""The settings of full fine-tuning: which parameters are trained, and whether they change during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from calculator.inputs.settings import setting
from calculator.methods.base import Method
from calculator.methods.targeted import settings


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSettings(Method):
    """The settings of full fine-tuning, named as in axolotl, LLaMA-Factory and badam."""

    unfrozen_parameters: tuple[str, ...] | None = setting(
        None,
        label="Unfrozen parameters",
        help="The parameters to train, given by prefixes of their names or by regular expressions, as in axolotl; null "
        "trains all.",
        example=("model.layers.30.", "model.layers.31.", "lm_head"),
        empty="all",
    )

    unfrozen_dtype: Literal["model", "float32"] = settings.unfrozen_dtype()

    use_badam: bool = setting(
        False,
        label="BAdam",
        help="Train one block of parameters at a time, such as a layer. The optimizer updates a float32 copy of the"
        " block, and drops its states when the block changes (use_badam of LLaMA-Factory, BlockOptimizer of badam). The"
        " figures are for the largest block.",
    )

    badam_mode: Literal["layer", "ratio"] = setting(
        "layer", label="BAdam's mode", help="What BAdam trains in turn: layers, or a share of every matrix."
    )

    badam_switch_mode: Literal["ascending", "descending", "random", "fixed"] = setting(
        "ascending",
        label="BAdam's order",
        help="The order in which BAdam trains the blocks. With fixed, only badam_start_block is trained.",
    )

    badam_switch_interval: int = setting(
        50,
        label="BAdam's interval",
        help="The number of steps after which BAdam changes the block and drops the optimizer's states. With 1, no"
        " states are kept between steps.",
        minimum=1,
        maximum=1_000_000_000,
        unit="steps",
    )

    badam_start_block: int | None = setting(
        None,
        label="BAdam's first block",
        help="The index of the block that BAdam trains first, from 0; null means the first one in the order.",
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
        " BlockOptimizer). The embeddings belong to it, unless include_embedding is set.",
    )

    lisa_n_layers: int | None = setting(
        None,
        label="LISA's layers",
        help="The number of layers that are trained at a time. LISA draws them at random, as in axolotl, and always"
        " trains the weights outside the layers. The optimizer keeps the states of every layer that it has trained.",
        minimum=1,
        maximum=100_000,
        example=2,
        empty="all",
    )

    lisa_step_interval: int = setting(
        20,
        label="LISA's interval",
        help="The number of steps after which LISA draws other layers. It does not change memory.",
        minimum=1,
        maximum=1_000_000_000,
        unit="steps",
    )
