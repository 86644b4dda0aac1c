"""Settings that LoRA and QLoRA share, named and defaulted as in `peft.LoraConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.inputs.settings import setting
from calculator.methods import saved, targets

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.inputs.training import Training

#: Source: peft/utils/other.py, EMBEDDING_LAYER_NAMES.
_EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Inputs of a low-rank update W₀ + (lora_alpha / r) · B·A (Hu et al. 2021, section 4.1)."""

    r: int = setting(8, label="Rank", help="The rank r of the update.", minimum=1, maximum=65_536, example=16)
    lora_alpha: float = setting(
        8, label="Alpha", help="The update is scaled by lora_alpha / r.", minimum=0, maximum=1e6, example=16
    )
    lora_dropout: float = setting(
        0.0, label="Dropout", help="Dropout on the input of the low-rank path.", minimum=0, maximum=0.99
    )
    target_modules: Literal["all-linear"] | tuple[str, ...] | None = setting(
        None,
        label="Target modules",
        help="Names of the modules to adapt, all-linear, or null for PEFT's default for the family.",
        example="all-linear",
    )
    use_rslora: bool = setting(
        False, label="rsLoRA", help="Scale by lora_alpha / √r instead (Kalajdzievski 2023); memory is the same."
    )
    use_dora: bool = setting(
        False, label="DoRA", help="Train each output's magnitude beside the direction (Liu et al. 2024)."
    )
    bias: Literal["none", "all", "lora_only"] = setting(
        "none", label="Train biases", help="Which biases of the base model are trained too."
    )
    modules_to_save: tuple[str, ...] | None = setting(
        None,
        label="Modules to save",
        help="Modules that are copied and trained in full, by name.",
        example=("lm_head",),
    )

    def check(self, model: Model, training: Training) -> None:  # noqa: ARG002
        """Refuse targets and modules to save that PEFT refuses."""
        targets.check(self, model)

    def written_beside(self, model: Model) -> frozenset[str]:
        """An adapted embedding's or head's own weight, which PEFT writes too (peft.get_peft_model_state_dict)."""
        if not isinstance(self.target_modules, tuple):
            return frozenset()
        named = set(_EMBEDDINGS).intersection(self.target_modules)
        weights = (f"{path}.weight" for path, _ in model.paths if path.rsplit(".", 1)[-1] in named)
        return frozenset(model.tied.get(weight, weight) for weight in weights)

    def copies(self, path: str) -> bool:
        """Whether the module at a path is, or lies in, one of `modules_to_save`."""
        return saved.is_saved(path, self)
