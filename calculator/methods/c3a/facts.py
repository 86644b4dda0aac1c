"""The facts about C3A."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import TARGETS_WITHOUT_CONV1D

FACTS = in_plain_steps(
    label="C3A",
    shardings=("ddp", "zero1", "zero2"),
    summary="C3A (Chen et al. 2024): an update of circulant blocks, which Fourier transforms apply to the input.",
    trainable="in_features · out_features / block_size per adapted matrix",
    inference_overhead="none once merged; unmerged, Fourier transforms of each adapted matrix's input and output",
    mergeable=True,
    best_for="updates of full rank with few parameters",
    source="Chen et al. 2024, arXiv 2407.19342; merging: peft, tuners/c3a/layer.py, C3ALinear.merge",
    peft_type="C3A",
    config_class="C3AConfig",
    default_targets=TARGETS_WITHOUT_CONV1D,
    refuses_unmerged="the Fourier transforms of each token are not counted",
)
