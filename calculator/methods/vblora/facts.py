"""The facts about VB-LoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

#: The families that PEFT's mapping for VB-LoRA lacks.
WITHOUT = ("falcon", "mistral", "mixtral", "mpt", "phi", "stablelm", "xlm-roberta")

FACTS = in_plain_steps(
    label="VB-LoRA",
    shardings=("ddp", "zero1", "zero2"),
    summary="VB-LoRA (Li et al. 2024): low-rank updates put together from the vectors of one trained bank.",
    trainable="num_vectors · vector_length, and r · num_vectors · (in + out) / vector_length per adapted matrix",
    inference_overhead="none once merged; unmerged, the factors are put together in each pass",
    mergeable=True,
    best_for="the smallest files of adapters",
    source="Li et al. 2024, arXiv 2405.15179; merging: peft, tuners/vblora/layer.py, Linear.merge",
    peft_type="VBLORA",
    config_class="VBLoRAConfig",
    default_targets={family: targets for family, targets in DEFAULT_TARGETS.items() if family not in WITHOUT}
    | {
        "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
        "mt5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
        "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "t5": ("q", "k", "v", "o", "wi", "wo"),
    },
    refuses_unmerged="putting the factors together is not counted",
)
