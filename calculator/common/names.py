"""The names in requests and answers: components, passes, phases, optimizers, methods and trainers."""

from typing import Literal

#: The tasks that a model is trained for, as PEFT's TaskType spells them, in lower case. PEFT has no type for image_cls.
TaskName = Literal[
    "causal_lm", "seq_cls", "token_cls", "question_ans", "seq_2_seq_lm", "feature_extraction", "image_cls"
]

#: The losses of a classifier, as `problem_type` of a config names them.
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

#: The components of the memory that is allocated at a peak.
ComponentName = Literal[
    "base_weights",
    "quantization_constants",
    "adapter_weights",
    "gradients",
    "optimizer_states",
    "activations",
    "kv_cache",
    "logits_and_loss",
    "workspace",
]

#: The passes of `generate`: the prompt, the first token after it, and the last token.
PassName = Literal["prefill", "first_decode", "last_decode"]

#: The tensors of every layer that a model returns: hidden states (output_hidden_states), or the cache.
LayerOutputs = Literal["hidden states", "cache"]

#: The phases of a training step. Only trainers that generate have `generation`.
PhaseName = Literal["generation", "forward", "backward", "optimizer_step"]

OptimizerName = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "sgd",
    "adafactor",
    "lion_8bit",
    "paged_lion_8bit",
    "lion_32bit",
    "paged_lion_32bit",
    "adagrad",
    "rmsprop",
    "adamw_torch_8bit",
    "adamw_torch_4bit",
    "muon",
    "galore_adamw",
    "galore_adafactor",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "schedule_free_radam",
    "stable_adamw",
    "lorafa",
]

#: The fine-tuning methods, as `method.name` of a request gives them.
MethodName = Literal[
    "full",
    "lora",
    "qlora",
    "adapter",
    "prefix",
    "prompt",
    "ia3",
    "ln_tuning",
    "miss",
    "vera",
    "loha",
    "lokr",
    "beft",
    "hira",
    "delora",
    "gralora",
    "hra",
    "randlora",
    "oft",
    "road",
    "p_tuning",
    "fourierft",
    "trainable_tokens",
    "deft",
    "vblora",
    "pvera",
    "adalora",
    "tinylora",
    "peanut",
    "glora",
    "psoft",
    "c3a",
    "unilora",
    "lily",
    "shira",
    "boft",
    "bitfit",
    "waveft",
    "adaption_prompt",
    "osf",
    "adamss",
    "xlora",
]

#: The training loops of libraries, as `training.trainer` of a request gives them.
TrainerName = Literal[
    "transformers",
    "trl-sft",
    "trl-dpo",
    "trl-kto",
    "trl-orpo",
    "trl-reward",
    "trl-grpo",
    "trl-rloo",
    "unsloth",
    "torchtune",
]

#: How samples become rows of one length. Source: trl/trainer/sft_config.py, packing_strategy.
PackingStrategy = Literal["bfd", "bfd_split", "wrapped"]

#: A loss of a trainer, as a request's `training.loss_type` gives it.
LossType = Literal[
    "nll",
    "chunked_nll",
    "dft",
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
    "kto",
    "apo_zero_unpaired",
    "dapo",
    "grpo",
    "bnpo",
    "dr_grpo",
    "cispo",
    "sapo",
    "luspo",
    "vespo",
]
