"""The facts about torchtune's recipes."""

from calculator.trainers.facts import TrainerDefault, TrainerFacts

RELEASE = "torchtune 0.6.1"

STEP = (
    "The step is that of torchtune 0.6.1's recipes lora_finetune_single_device and full_finetune_single_device, with"
    " torchtune's own modules and CEWithChunkedOutputLoss and compile=False. It has no sliding windows. Nothing depends"
    " on stack.transformers or stack.peft. Evaluation, logging and data loading are not counted."
)

IN_4_BITS = (
    "QLoRA's weights are torchao 0.10's NF4Tensor. PyTorch's own operations dequantize them, with an index of 8 bytes"
    " for each weight of the matrix. Nothing of the weights depends on stack.bitsandbytes."
)

SUMMARY = (
    "torchtune's own modules compute norms and rotary embeddings in float32 and repeat keys and values. The output head"
    " runs in eight chunks, and the loss keeps the log-probabilities of all of them in float32."
)

_CONFIGS = f"{RELEASE}, recipes/configs/llama3_1"

FACTS = TrainerFacts(
    label="torchtune",
    source="torchtune, recipes/lora_finetune_single_device.py",
    summary=SUMMARY,
    defaults=(
        TrainerDefault(path="training.dtype", value="bfloat16", source=f"{_CONFIGS}: dtype"),
        TrainerDefault(path="training.adapter_dtype", value="model", source=f"{_CONFIGS}: dtype"),
        TrainerDefault(
            path="training.gradient_checkpointing", value=True, source=f"{_CONFIGS}: enable_activation_checkpointing"
        ),
        TrainerDefault(
            path="method.prepare_model_for_kbit_training", value=False, source=f"{RELEASE}, modules/peft/lora.py"
        ),
        TrainerDefault(path="training.max_grad_norm", value=None, source=f"{_CONFIGS}: clip_grad_norm"),
        TrainerDefault(
            path="training.optimizer",
            value="adamw_torch_fused",
            source=f"{_CONFIGS}/8B_lora_single_device.yaml: optimizer",
            trains_base=False,
        ),
        TrainerDefault(
            path="training.optimizer",
            value="paged_adamw_8bit",
            source=f"{_CONFIGS}/8B_full_single_device.yaml: optimizer",
            trains_base=True,
        ),
    ),
    on_one_gpu=True,
    has_own_files=True,
    scalars=("loss_to_log", "tokens_per_second", "current_num_tokens", "num_tokens", "current_loss"),
    uses_cache=False,
    grads_inputs="never",
    returns_norm=True,
    assumptions=(STEP,),
)
