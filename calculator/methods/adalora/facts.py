"""The facts about AdaLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

#: The families that PEFT's mapping for AdaLoRA lacks.
WITHOUT = ("falcon", "mistral", "mixtral", "mpt", "phi", "stablelm", "xlm-roberta")

FACTS = in_plain_steps(
    label="AdaLoRA",
    shardings=("ddp",),
    summary="AdaLoRA (Zhang et al. 2023): low-rank updates as a singular value decomposition, whose ranks are pruned.",
    trainable="init_r · (in_features + out_features + 1) per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products per adapted matrix",
    mergeable=True,
    best_for="a fixed budget of ranks, where layers need different ones",
    source="Zhang et al. 2023, arXiv 2303.10512; peft, tuners/adalora/layer.py, SVDLinear.forward and merge",
    peft_type="ADALORA",
    config_class="AdaLoraConfig",
    default_targets={family: targets for family, targets in DEFAULT_TARGETS.items() if family not in WITHOUT}
    | {
        "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
        "mt5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
        "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "roberta": ("query", "key", "value", "dense"),
        "t5": ("q", "k", "v", "o", "wi", "wo"),
    },
    forward_operations=2,
    backward_operations=4,
)
