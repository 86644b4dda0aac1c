"""The names in requests and answers: components, passes, phases, optimizers, methods and trainers."""

from typing import Literal

#: What a model is trained for, as PEFT's TaskType spells it in lower case. PEFT has no type for image_cls.
TaskName = Literal[
    "causal_lm", "seq_cls", "token_cls", "question_ans", "seq_2_seq_lm", "feature_extraction", "image_cls"
]

#: A loss of a classifier, as a config's `problem_type` names it.
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

#: A part of the memory allocated at a peak.
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

#: A pass of `generate`: the prompt, the first token after it, and the last token.
PassName = Literal["prefill", "first_decode", "last_decode"]

#: A part of a training step; only trainers that generate have `generation`.
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

#: A fine-tuning method, as a request's `method.name` gives it.
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
]

#: A training loop of a library, as a request's `training.trainer` gives it.
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

#: A loss of a trainer, as a request's `training.loss_type` gives it.
#: How samples become rows of one length. Source: trl/trainer/sft_config.py, packing_strategy.
PackingStrategy = Literal["bfd", "bfd_split", "wrapped"]

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
