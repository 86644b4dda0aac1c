"""The facts about LoHa."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="LoHa",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="LoHa (Hyeon-Woo et al. 2021): an update that is the elementwise product of two low-rank ones.",
    trainable="2 · r · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, each adapted matrix is multiplied with a dense update too",
    mergeable=True,
    best_for="updates of a higher rank than LoRA's with as many parameters",
    source="Hyeon-Woo et al. 2021, arXiv 2108.06098; merging: peft, tuners/lycoris_utils.py, LycorisLayer.merge",
    peft_type="LOHA",
    config_class="LoHaConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
