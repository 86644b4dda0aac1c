"""The facts about SHiRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import ATTENTION_TARGETS

FACTS = in_plain_steps(
    label="SHiRA",
    shardings=("ddp", "fsdp"),
    summary="SHiRA (Bhardwaj et al. 2024): an update of single elements of the weight, chosen at random.",
    trainable="r · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, each adapted weight is copied in each pass",
    mergeable=True,
    best_for="updates of high rank that change few weights, so that adapters can be exchanged fast",
    source="Bhardwaj et al. 2024, arXiv 2406.13175; merging: peft, tuners/shira/layer.py, Linear.merge",
    peft_type="SHIRA",
    config_class="ShiraConfig",
    default_targets=ATTENTION_TARGETS,
    refuses_unmerged="the copies of weights that each token takes are not counted",
)
