"""The facts about WaveFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import TARGETS_WITHOUT_CONV1D

FACTS = in_plain_steps(
    label="WaveFT",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="WaveFT (Bilican et al. 2025): an update that is the inverse wavelet transform of trained coefficients.",
    trainable="n_frequency per adapted matrix",
    inference_overhead="none once merged; unmerged, a wavelet transform and a dense product per adapted matrix",
    mergeable=True,
    best_for="the smallest checkpoints of an update of full rank",
    source="Bilican et al. 2025, arXiv 2505.12532; merging: peft, tuners/waveft/layer.py, WaveFTLinear.merge",
    peft_type="WAVEFT",
    config_class="WaveFTConfig",
    default_targets=TARGETS_WITHOUT_CONV1D,
    refuses_unmerged="the wavelet transforms of each token are not counted",
)
