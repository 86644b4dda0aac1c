"""The facts about Unsloth. `SOURCE` is the commit that was read."""

from dataclasses import replace

from calculator.trainers.facts import TrainerDefault
from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.transformers.facts import OPTIMIZER

#: Source: github.com/unslothai/unsloth at 015bdef and github.com/unslothai/unsloth-zoo at ce232d6, both of August 2026.
SOURCE = "unsloth 2026.8.13"

STEP = (
    "The step is that of TRL's SFTTrainer with Unsloth's patches, from the source of Unsloth 2026.8.13 and its"
    " unsloth_zoo. Its own code was traced with small models, but for the compiled loss. Unsloth replaces the forward"
    " pass of transformers: stack.transformers changes nothing. Evaluation, logging and data loading are not counted."
)

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
    assumptions=(STEP,),
)
