"""A difference of an older library release."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

ChangeName = Literal[
    "math_kernel_for_float32_groups",
    "shifted_logits",
    "reassigned_logits",
    "repeated_keys",
    "repeated_keys_of_flash",
    "repeated_keys_of_one_token",
    "contiguous_queries",
    "float_masks",
    "masks_without_cache",
    "one_inv_freq",
    "inv_freq_of_every_layer",
    "tables_of_every_layer",
    "logits_reassigned_by_mistral",
    "values_cached_as_keys",
    "cache_without_copies",
    "windows_without_counters",
    "tables_of_all_positions",
    "embeddings_scaled_by_a_number",
    "causal_mask_of_every_layer",
    "masked_bias_of_every_layer",
    "masks_of_windowed_layers",
    "masks_copied_by_index",
    "masks_in_every_pass",
    "positions_outside_of_layers",
    "positions_of_the_cache",
    "rows_of_no_expert",
    "logits_in_their_own_dtype",
    "caches_of_checkpointed_layers",
    "no_cache_in_training",
    "sdpa_without_softcapping",
    "inputs_of_frozen_4bit_layers",
    "compute_dtype_of_the_input",
    "cache_of_the_config",
    "reentrant_by_default",
    "norm_of_the_step_before",
    "norms_only_to_clip",
    "labels_counted_in_python",
    "mean_loss_of_a_micro_batch",
    "mean_loss_of_models_without_loss_kwargs",
    "embeddings_in_8_bits",
    "norms_by_class",
    "norms_by_name",
    "arguments_saved_by_checkpoints",
    "arguments_saved_by_later_checkpoints",
    "embeddings_without_gradients",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A difference in the releases of a library between `since` and `before`, and its place in their source."""

    package: str
    #: Whether it affects every pass of a model, its steps but not the passes of `generate`, or those of Trainer only.
    affects: Literal["passes", "steps", "trainers"] = "passes"
    since: Release = (0, 0)
    before: Release
    sentence: str
    source: str
    #: The model types that the change affects. Empty for every model.
    model_types: tuple[str, ...] = ()
    #: The first release in which a model type runs the changed code. Before, it has code of its own.
    shared_since: Mapping[str, Release] = field(default_factory=dict)

    def applies(self, versions: StackVersions, model_type: str | None) -> bool:
        """Return whether the change affects a model with these library versions."""
        version = release(getattr(versions, self.package))
        if version < self.shared_since.get(model_type or "", version):
            return False
        return self.since <= version < self.before and (not self.model_types or model_type in self.model_types)
