"""The facts about HiRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="HiRA",
    shardings=("ddp", "fsdp", "zero1", "zero2"),
    summary="HiRA (Huang et al. 2025): a low-rank matrix that multiplies the frozen weight elementwise.",
    trainable="r · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, each adapted matrix is multiplied with a dense update too",
    mergeable=True,
    best_for="updates of full rank with as many parameters as LoRA",
    source="Huang et al. 2025, HiRA, ICLR 2025; peft, tuners/hira/layer.py, Linear.forward",
    peft_type="HIRA",
    config_class="HiraConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
