"""The facts about X-LoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="X-LoRA",
    shardings=("ddp",),
    summary="X-LoRA (Buehler & Buehler 2024): a classifier that mixes trained LoRA adapters, token by token.",
    trainable="the classifier, of hidden_size · n + n parameters for n adapters at depth 1; the adapters on request",
    inference_overhead="each token runs the model twice, with all adapters and without a cache of keys and values",
    mergeable=False,
    best_for="mixing adapters that were trained for different tasks",
    source="Buehler & Buehler 2024, arXiv 2402.07148; peft, tuners/xlora/model.py, _enable_peft_forward_hooks",
    peft_type="XLORA",
    config_class="XLoraConfig",
    default_targets=DEFAULT_TARGETS,
    always_float32=True,
    refuses_checkpointing=True,
    refuses_unmerged="PEFT generates without a cache and runs the model twice for each token, which is not modeled",
    forward_operations=2,
    backward_operations=4,
)
