"""The fields of the request's `training` object."""

from dataclasses import dataclass
from typing import Literal

from calculator.common.names import LossType, OptimizerName, PackingStrategy, TrainerName
from calculator.inputs.active_layers import ACTIVE_LAYERS
from calculator.inputs.images import Images
from calculator.inputs.settings import setting
from calculator.inputs.sharding import DDPConfig, DeepSpeedConfig, FSDPConfig

#: Names of optimizers in other tools and papers, and what to use instead.
OTHER_OPTIMIZERS = {
    "adam": "Use adamw_torch, which has the same states",
    "adamw": "Use adamw_torch, or adamw_torch_fused, the default of TrainingArguments",
    "adamw_hf": "Use adamw_torch, which has the same states",
    "apollo": "Use apollo_adamw, and set optim_target_modules",
    "galore": "Use galore_adamw, and set optim_target_modules",
    "galore_adamw_8bit": "Use galore_adamw_8bit_layerwise: GaLore in 8 bits is modeled layer by layer only",
    "gradient_release": "Set optimizer_in_bwd, which steps each parameter in the backward pass and frees its gradient",
    "lion": "Use lion_32bit or lion_8bit: Lion is modeled as bitsandbytes has it",
    "optimi": "Use stable_adamw, which is optimi's. Its gradient_release is optimizer_in_bwd",
    "schedule_free": "Use schedule_free_adamw, schedule_free_radam or schedule_free_sgd",
    "torchao": "Use adamw_torch_8bit or adamw_torch_4bit, which are torchao's",
}

#: Short names of data types, and what to use instead.
SHORT_DTYPES = {"bf16": "Use bfloat16", "fp16": "Use float16", "fp32": "Use float32"}

#: Tools that users name as a trainer, and what to use instead.
TOOLS = {
    "axolotl": "axolotl is a tool: import its file, start from its defaults with --tool axolotl, or use transformers",
    "llama-factory": "LLaMA-Factory is a tool: import its file, start from its defaults with --tool llama-factory, or "
    "use transformers",
    "Trainer": "Use transformers",
    **{f"{name}Trainer": f"Use trl-{name.lower()}" for name in ("SFT", "DPO", "KTO", "ORPO", "Reward", "GRPO", "RLOO")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointingKwargs:
    """The arguments that the trainer passes to `gradient_checkpointing_enable`."""

    use_reentrant: bool = setting(
        False,
        label="Re-entrant checkpointing",
        help="Run checkpointed layers under torch.no_grad and build the graph when they are recomputed "
        "(use_reentrant=True). Only with a trainer.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The settings of one training step, named as in `TrainingArguments`."""

    trainer: TrainerName | None = setting(
        None,
        label="Trainer",
        help="The training loop: that of transformers.Trainer, of a trainer of TRL, or the reference step, a plain "
        "PyTorch loop.",
        example="transformers",
        empty="reference step",
        instead=TOOLS,
    )
    micro_batch_size: int = setting(
        1,
        label="Micro-batch size",
        help="Rows of the dataset per forward pass on each GPU (B): sequences, images with task image_cls, or with "
        "trl-dpo, trl-orpo and trl-reward pairs of sequences.",
        minimum=1,
        maximum=65_536,
        example=1,
    )
    sequence_length: int = setting(
        2048,
        label="Sequence length",
        help="Tokens per sequence (S), without virtual tokens. For images of task image_cls and for Whisper's audio, "
        "the config sets the number instead.",
        minimum=2,
        maximum=16_777_216,
        unit="tokens",
        example=2048,
    )
    texts_per_example: int = setting(
        2,
        label="Texts per example",
        help="The texts of an example: an anchor, its positive, and any negatives. Each has its own forward pass with "
        "sequence_length tokens. Only with task feature_extraction.",
        minimum=2,
        maximum=16,
        example=3,
    )
    target_length: int | None = setting(
        None,
        label="Target length",
        help="Tokens of each target sequence of an encoder-decoder; sequence_length is that of the source. null means "
        "sequence_length, and for audio the config's max_target_positions. Only with task seq_2_seq_lm.",
        minimum=2,
        maximum=16_777_216,
        unit="tokens",
        example=128,
        empty="as the source",
    )
    sequence_lengths: tuple[tuple[int, int], ...] | None = setting(
        None,
        label="Sample lengths",
        help="Lengths of the dataset's samples in tokens, each with its number of samples, as python -m app lengths or"
        " sorted(Counter(map(len, dataset['input_ids'])).items()) lists them. Micro-batches are drawn from them and"
        " padded to their longest sample. Samples are cut to sequence_length (TRL's max_length) if it is given. Without"
        " them, every sequence has sequence_length.",
        example=[[256, 9000], [512, 900], [1024, 100]],
    )
    images: Images | None = setting(
        None,
        label="Images",
        help="The images of each sequence of a model that reads images; null means text only.",
        example={"images_per_sequence": 1, "image_height": 1008, "image_width": 1792},
    )
    gradient_accumulation_steps: int = setting(
        1,
        label="Gradient accumulation steps",
        help="Micro-batches per optimizer step. Above 1, gradients stay in memory during the next forward pass.",
        minimum=1,
        maximum=1_000_000,
    )
    dtype: Literal["bfloat16", "float16", "float32"] = setting(
        "bfloat16",
        label="Precision",
        help="The data type of the base weights and of the computation.",
        instead=SHORT_DTYPES,
    )
    autocast: Literal["bfloat16", "float16"] | None = setting(
        None,
        label="Autocast",
        help="Mixed precision (AMP): weights keep their data type, and matrix products run in this one. A trained "
        "float32 weight is cast once per forward pass, any other tensor at each use.",
        instead=SHORT_DTYPES,
    )
    adapter_dtype: Literal["float32", "model"] = setting(
        "float32",
        label="Adapter precision",
        help="The data type of added parameters: float32 (PEFT's autocast_adapter_dtype=True), or model, that of the "
        "adapted layer. Preparation for k-bit training makes layers that are not in 4 bits float32.",
    )
    gradient_checkpointing: bool = setting(
        False,
        label="Gradient checkpointing",
        help="Save only each decoder layer's input and recompute the layer in the backward pass.",
    )
    loss_type: LossType | None = setting(
        None,
        label="Loss",
        help="The trainer's loss_type; null means its default. Only with a trainer of TRL.",
        example="nll",
        empty="the trainer's default",
    )
    packing: bool = setting(
        False,
        label="Packing",
        help="Fill rows of sequence_length tokens with several samples each (packing). Only with trl-sft.",
    )
    packing_strategy: PackingStrategy = setting(
        "bfd",
        label="Packing strategy",
        help="How samples become rows (packing_strategy): bfd and bfd_split separate the samples of a row, and the "
        "rows of a micro-batch are one row (padding_free); wrapped cuts rows from one stream of tokens.",
    )
    padding_free: bool = setting(
        False,
        label="Padding-free",
        help="Put the sequences of a micro-batch into one row without padding. Position ids restart at each sequence "
        "(padding_free of trl-sft, DataCollatorWithFlattening with transformers).",
    )
    completion_tokens: int | None = setting(
        None,
        label="Labeled tokens",
        help="Tokens of a micro-batch that the loss counts, after the shift (N); null means all. Only with a trainer.",
        minimum=1,
        maximum=1 << 40,
        unit="tokens",
        example=2048,
    )
    precompute_ref_log_probs: bool = setting(
        False,
        label="Precompute the reference",
        help="Compute the reference model's log-probabilities before training, so that training needs no reference "
        "model (precompute_ref_log_probs). Only with trl-dpo and trl-kto.",
    )
    beta: float | None = setting(
        None,
        label="KL coefficient",
        help="The coefficient of the KL divergence from the reference model (beta); null means the trainer's default: "
        "0 with trl-grpo, 0.05 with trl-rloo. With 0, there is no reference model. Only with trl-grpo and "
        "trl-rloo.",
        minimum=0,
        maximum=1e9,
        example=0.04,
        empty="the trainer's default",
    )
    num_generations: int | None = setting(
        None,
        label="Completions per prompt",
        help="Completions that are generated for each prompt (num_generations). The number must divide the rows of a "
        "step; null means any such number. Only with trl-grpo and trl-rloo.",
        minimum=2,
        maximum=1_000_000,
        example=8,
        empty="any",
    )
    max_completion_length: int | None = setting(
        None,
        label="Completion length",
        help="Tokens of the longest completion (max_completion_length). The longest prompt has the rest of "
        "sequence_length; null leaves the prompt one token. Only with trl-grpo and trl-rloo.",
        minimum=1,
        maximum=16_777_215,
        unit="tokens",
        example=512,
        empty="all but one token",
    )
    use_vllm: bool = setting(
        False,
        label="vLLM",
        help="Generate completions with vLLM in place of transformers' generate (use_vllm). Only with trl-grpo and "
        "trl-rloo.",
    )
    vllm_mode: Literal["colocate", "server"] = setting(
        "colocate",
        label="vLLM's mode",
        help="Whether vLLM runs in the trainer's process on the same GPU, or as a server on others (vllm_mode).",
    )
    vllm_gpu_memory_utilization: float | None = setting(
        None,
        label="vLLM's memory share",
        help="The share of the GPU's total memory that vLLM uses for weights and KV cache "
        "(vllm_gpu_memory_utilization); null means TRL's default of 0.3. Only with use_vllm in the mode colocate.",
        minimum=0.01,
        maximum=0.99,
        example=0.3,
        empty="0.3",
    )
    vllm_enable_sleep_mode: bool = setting(
        False,
        label="vLLM's sleep mode",
        help="Whether vLLM frees its weights and KV cache during training steps (vllm_enable_sleep_mode). Only with "
        "use_vllm in the mode colocate.",
    )
    use_liger_kernel: bool = setting(
        False,
        label="Liger kernels",
        help="Patch the model's norms, rotary embedding, MLP and loss with Liger's kernels (use_liger_kernel). Only "
        "with a trainer.",
    )
    kernels: tuple[str, ...] | None = setting(
        None,
        label="Kernel packages",
        help="Installed packages whose kernels replace PyTorch code of the model: fla (flash-linear-attention), "
        "causal_conv1d and mamba_ssm. The figures of their kernels are derived from source code, not measured. "
        "Null means none.",
        example=["fla", "causal_conv1d"],
    )
    cut_cross_entropy: bool = setting(
        False,
        label="Cut Cross-Entropy",
        help="Patch the model with Cut Cross-Entropy, whose loss never builds logits (axolotl's cut_cross_entropy). It "
        "has an effect only with the trainer transformers: TRL's trainers compute their own losses.",
    )
    gradient_checkpointing_kwargs: CheckpointingKwargs | None = setting(
        None,
        label="Checkpointing options",
        help="The options of gradient checkpointing; null means the trainer's default.",
        example={"use_reentrant": False},
    )
    activation_offloading: bool | None = setting(
        None,
        label="Offload activations",
        help="Whether tensors saved for the backward pass are kept in host memory; with gradient checkpointing, these "
        "are the layers' inputs. Null means the trainer's default. It is activation_offloading of TRL's SFT, DPO, "
        "KTO and Reward trainers, which is modeled with use_reentrant false. It is the default of unsloth "
        "(use_gradient_checkpointing); false keeps the inputs on the GPU.",
        example=True,
        empty="the trainer's default",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = setting(
        "sdpa", label="Attention", help="The attention implementation (attn_implementation)."
    )
    padding: bool = setting(False, label="Padding", help="Whether the batch has an attention mask with padding.")
    optimizer: OptimizerName = setting(
        "adamw_torch",
        label="Optimizer",
        help="The optimizer, as named by TrainingArguments.optim.",
        instead=ACTIVE_LAYERS | OTHER_OPTIMIZERS,
    )
    # The order is that of TargetModules, since typing caches one of two unions that are equal.
    optim_target_modules: Literal["all-linear"] | tuple[str, ...] | None = setting(
        None,
        label="Projected modules",
        help="The linear layers whose gradients the optimizer projects, by parts of their names, or all-linear"
        " (optim_target_modules). Only with the optimizers of GaLore and APOLLO, which need it.",
        example="all-linear",
    )
    optim_args: str | None = setting(
        None,
        label="Optimizer options",
        help="Options of GaLore and APOLLO as TrainingArguments.optim_args: rank (128), update_proj_gap (200), scale,"
        " proj_type (std), and of APOLLO proj (random) and scale_type (channel).",
        example="rank=64, update_proj_gap=100",
    )
    optimizer_in_bwd: bool = setting(
        False,
        label="Optimizer in backward",
        help="Gradient release: step each parameter's own optimizer as soon as its gradient is ready, and free the "
        "gradient (a post-accumulate-grad hook, optimi's gradient_release, torchtune's optimizer_in_bwd). Only "
        "without a trainer, or with torchtune's full fine-tuning.",
    )
    max_grad_norm: float | None = setting(
        1.0,
        label="Gradient clipping",
        help="The maximum norm of all gradients together; null or 0 turns clipping off.",
        minimum=0,
        maximum=1e9,
    )

    ddp: DDPConfig | None = setting(
        None,
        label="DDP options",
        help="The options of DistributedDataParallel; null means its defaults. Only with device.sharding ddp.",
        example={"gradient_as_bucket_view": True},
    )
    deepspeed: DeepSpeedConfig | None = setting(
        None,
        label="DeepSpeed options",
        help="The object zero_optimization of a DeepSpeed config; null means DeepSpeed's defaults. Only with "
        "device.sharding zero1, zero2 or zero3.",
        example={"zero_optimization": {"reduce_bucket_size": "auto"}},
    )
    fsdp_config: FSDPConfig | None = setting(
        None,
        label="FSDP options",
        help="The options of FSDP2, as TrainingArguments.fsdp_config; null means its defaults. Only with "
        "device.sharding fsdp.",
        example={"reshard_after_forward": False},
    )
    loraplus_lr_ratio: float | None = setting(
        None,
        label="LoRA+ ratio",
        help="The learning rate of LoRA's B divided by that of A (loraplus_lr_ratio of PEFT's "
        "create_loraplus_optimizer). The optimizer then has separate parameter groups for A and B, and updates "
        "one group after the other.",
        minimum=1,
        maximum=1e6,
        example=16,
    )
    torch_empty_cache_steps: int | None = setting(
        None,
        label="Empty the cache every",
        help="Call torch.cuda.empty_cache() in the first step and then every N steps, as "
        "TrainingArguments.torch_empty_cache_steps does. It changes figures by replay only.",
        minimum=1,
        maximum=1_000_000,
        unit="steps",
        example=10,
    )
    empty_cache_at: Literal["after_forward", "after_step"] = setting(
        "after_forward",
        label="Where the cache is emptied",
        help="When these steps call it: after each forward pass, as the Hugging Face Trainer does, or at the end of "
        "the step, as in a custom training loop.",
    )
