"""The facts about FourierFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import TARGETS_WITHOUT_CONV1D

FACTS = in_plain_steps(
    label="FourierFT",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="FourierFT (Gao et al. 2024): an update that is the inverse Fourier transform of trained frequencies.",
    trainable="n_frequency per adapted matrix",
    inference_overhead="none once merged; unmerged, a Fourier transform and a dense product per adapted matrix",
    mergeable=True,
    best_for="the smallest checkpoints of an update of full rank",
    source="Gao et al. 2024, arXiv 2405.03003; merging: peft, tuners/fourierft/layer.py, FourierFTLinear.merge",
    peft_type="FOURIERFT",
    config_class="FourierFTConfig",
    default_targets=TARGETS_WITHOUT_CONV1D,
    refuses_unmerged="the Fourier transforms of each token are not counted",
)
