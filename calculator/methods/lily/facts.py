"""The facts about Lily."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("ddp", "zero1", "zero2"),
    label="Lily",
    summary="Lily (Zhong et al. 2024): low-rank updates whose B is mixed from matrices that all layers share.",
    trainable="r · in_features per stride_A layers, num_B · r · out_features per kind of module, num_B · r per module",
    inference_overhead="mixing the shared matrices and two thin products per adapted matrix",
    mergeable=False,
    best_for="larger ranks than LoRA's with as many parameters",
    source="Zhong et al. 2024, arXiv 2407.09946; peft, tuners/lily/layer.py, Linear.forward and merge",
    peft_type="LILY",
    config_class="LilyConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="PEFT mixes the shared matrices by all tokens of a batch, which is not counted",
)
