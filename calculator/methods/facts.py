"""The facts about a method that do not depend on its settings: its words, its costs and what PEFT refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSizes:
    """The values that a plan tries for the setting that determines a method's size."""

    #: The name of the setting.
    setting: str
    #: The values to start with, the preferred one first.
    usual: tuple[int, ...]
    #: Values below the usual ones, used only if the needs leave no other choice.
    smaller: tuple[int, ...]
    #: Values above the usual ones, which are also offered if they fit, the largest first.
    larger: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFacts:
    """The facts about one method. Every package reads them here."""

    #: The method's name in words.
    label: str
    #: One sentence that says what the method is.
    summary: str
    #: The number of trained parameters, as a formula.
    trainable: str
    #: The cost of the method when the model generates.
    inference_overhead: str
    #: Whether the trained parameters can be merged into the weights. None if there is nothing to merge.
    mergeable: bool | None
    #: The use that the method is best for.
    best_for: str
    #: The source of these words.
    source: str

    #: The method's place in a plan's order of quality, by what it was measured to learn with its preferred settings. 0
    #: is the best. None if no measurement places it: a plan does not try the method, and a comparison only lists it on
    #: request.
    quality_tier: int | None = None
    #: The values that a plan tries. None if no setting determines the size.
    candidate_sizes: CandidateSizes | None = None

    #: PEFT's `peft_type` in adapter_config.json. None if PEFT has no such method.
    peft_type: str | None = None
    #: The class of PEFT's configuration, whose arguments have the names of the method's settings.
    config_class: str | None = None
    #: The default `target_modules`, by model_type.
    default_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    #: Whether the base model's own weights are trained, so that each task needs a whole model.
    trains_base: bool = False
    #: Whether only some of these weights are trained, none of which is a matrix.
    trains_part: bool = False
    #: Whether the base model's linear layers are stored in 4 bits.
    quantizes_base: bool = False
    #: Whether PEFT keeps the added parameters in float32 whatever `adapter_dtype` is.
    always_float32: bool = False
    #: Whether it trains copies of the base's modules. They replace the modules, in the base's dtype whatever
    #: `adapter_dtype` is.
    trains_copies: bool = False
    #: Whether PEFT refuses the method with gradient checkpointing.
    refuses_checkpointing: bool = False
    #: Whether the virtual tokens pass through every layer, like the input's own tokens.
    lengthens_input: bool = False
    #: Whether attention gets a mask even if no token is padding.
    masks_attention: bool = False
    #: Why the method is refused over a 4-bit base. None if it is not.
    refuses_4_bits: str | None = None
    #: Why serving it without merging is refused. None if it is not.
    refuses_unmerged: str | None = None
    #: Whether only steps of the reference loop, of transformers' Trainer and of TRL's SFTTrainer are modeled.
    plain_steps_only: bool = False
    #: The shardings under which the reference step is modeled, for a method that is modeled in plain steps only.
    plain_shardings: tuple[str, ...] = ()
    #: The parameters that have the dtype of its buffers when PEFT adds them. Products have both as factors, and PyTorch
    #: refuses them if a sharding then casts the parameters alone. None if it has no such buffers.
    buffers_like: Literal["adapters", "base"] | None = None
    #: Whether its code runs such products in the dtype of the buffers.
    mixes_buffers: bool = False

    #: The floating-point operations of a token's forward pass for each added parameter: 2 for matrices.
    forward_operations: int = 0
    #: The floating-point operations of a token's backward pass for each added parameter: 4 for matrices (Kaplan et al.
    #: 2020, arXiv 2001.08361, section 2.1).
    backward_operations: int = 0

    #: The errors of transformers' `generate` with PEFT's model, with the versions of the libraries.
    generate_caveat: str | None = None


def in_plain_steps(label: str, *, shardings: tuple[str, ...] = (), **facts: Any) -> MethodFacts:
    """Return the facts about a method of PEFT that is modeled in plain steps only, over a base in 16 or 32 bits.

    `shardings`: those under which the reference step is compared with traces.
    """
    refused = f"{label} over a base in 4 bits is not modeled: use a base in 16 bits, or QLoRA"
    return MethodFacts(label=label, refuses_4_bits=refused, plain_steps_only=True, plain_shardings=shardings, **facts)
