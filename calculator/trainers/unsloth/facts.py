"""The facts about Unsloth."""

from dataclasses import replace

from calculator.trainers.facts import TrainerDefault
from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.transformers.facts import OPTIMIZER

#: The newest release that was read, with its unsloth_zoo. Unsloth 2026.8.13 is known too (`releases.py`).
SOURCE = "unsloth 2026.10.9"

SUMMARY = (
    "Fused LoRA functions save fewer tensors, the layers' inputs are in host memory, and the loss is computed from"
    " chunks of logits. The answer is an interval, since Unsloth decides by the free memory and by what is installed."
)

DEFAULTS = (
    TrainerDefault(path="training.dtype", value="bfloat16", source=f"{SOURCE}, models/loader.py: dtype = None"),
    TrainerDefault(path="training.autocast", value="bfloat16", source=f"{SOURCE}, models/rl.py: args.bf16"),
    TrainerDefault(
        path="training.gradient_checkpointing",
        value=True,
        source=f'{SOURCE}, models/loader.py: use_gradient_checkpointing = "unsloth"',
    ),
    TrainerDefault(
        path="method.prepare_model_for_kbit_training",
        value=False,
        source=f"{SOURCE}, models/_utils.py, prepare_model_for_kbit_training",
    ),
    OPTIMIZER,
)

FACTS = replace(
    TRANSFORMERS,
    label="Unsloth",
    source=f"{SOURCE}, models/llama.py",
    summary=SUMMARY,
    defaults=DEFAULTS,
    on_one_gpu=True,
    offloads=True,
    is_interval=True,
    grads_inputs="always",  # unsloth_zoo/training_utils.py, prepare_model_for_training: use_reentrant is True
    assumptions=(),
)
