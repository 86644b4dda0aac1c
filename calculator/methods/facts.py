"""What is known about a method whatever its settings are: its words, its costs and what PEFT refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSizes:
    """The values that a plan tries for the setting that decides a method's size."""

    #: The name of the setting.
    setting: str
    #: The values to begin with, the preferred one first.
    usual: tuple[int, ...]
    #: Values below the usual ones, used only where the needs leave no other choice.
    smaller: tuple[int, ...]
    #: Values above the usual ones, offered as well where they fit, the largest first.
    larger: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """The facts about one method, stated once; every package reads them here."""

    #: The method's name in words.
    label: str
    #: One sentence: what the method is.
    summary: str
    #: The number of trained parameters, as a formula.
    trainable: str
    #: What the method costs when the model generates.
    inference_overhead: str
    #: Whether the trained parameters can be merged into the weights; None where there is nothing to merge.
    mergeable: bool | None
    #: What the method is best used for.
    best_for: str
    #: Where the words above come from.
    source: str

    #: Quality in a plan's order, 0 being the best: what the method was measured to learn with its preferred settings.
    #: None where no measurement places it: a plan does not try the method, and a comparison lists it when asked to.
    quality_tier: int | None = None
    #: The values that a plan tries; None where no setting decides the size.
    candidate_sizes: CandidateSizes | None = None

    #: PEFT's `peft_type` in adapter_config.json; None where PEFT has no such method.
    peft_type: str | None = None
    #: The class of PEFT's configuration, whose arguments have the names of the method's settings.
    config_class: str | None = None
    #: `target_modules` where a request gives none, by model_type.
    default_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    #: Whether the base model's own weights are trained, so that each task is a whole model.
    trains_base: bool = False
    #: Whether only some of these weights are trained, none of them a matrix.
    trains_part: bool = False
    #: Whether the base model's linear layers are stored in 4 bits.
    quantizes_base: bool = False
    #: Whether PEFT keeps the added parameters in float32 whatever `adapter_dtype` is.
    always_float32: bool = False
    #: Whether it trains copies of the base's modules, which run in their place in the base's dtype, whatever
    #: `adapter_dtype` is.
    trains_copies: bool = False
    #: Whether PEFT refuses the method with gradient checkpointing.
    refuses_checkpointing: bool = False
    #: Whether the virtual tokens pass through every layer, as the input's own tokens do.
    lengthens_input: bool = False
    #: Whether attention gets a mask even where no token is padding.
    masks_attention: bool = False
    #: Why the method is refused over a base in 4 bits, if it is.
    refuses_4_bits: str | None = None
    #: Why serving it without merging is refused, if it is.
    refuses_unmerged: str | None = None
    #: Whether only steps of the reference loop, transformers' Trainer and TRL's SFTTrainer are modelled.
    plain_steps_only: bool = False
    #: The shardings under which the reference step is modelled too, of a method in plain steps only.
    plain_shardings: tuple[str, ...] = ()

    #: Floating-point operations of a token's forward pass for each added parameter: 2 for matrices.
    forward_operations: int = 0
    #: The same of its backward pass: 4 for matrices (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    backward_operations: int = 0

    #: What goes wrong when transformers' `generate` runs PEFT's model, with the versions that the figures are for.
    generate_caveat: str | None = None


def in_plain_steps(label: str, *, shardings: tuple[str, ...] = (), **facts: Any) -> MethodFacts:
    """The facts about a method of PEFT that is modelled in plain steps only, over a base in 16 or 32 bits.

    `shardings`: those under which the reference step is compared with traces.
    """
    refused = f"{label} over a base in 4 bits is not modelled: use a base in 16 bits, or QLoRA"
    return MethodFacts(label=label, refuses_4_bits=refused, plain_steps_only=True, plain_shardings=shardings, **facts)
