"""The figures of the lesson's sections on the methods."""

from calculator.devices import gpu
from calculator.estimation.textbook import adapter_parameters, fewest_gpus, prefix_parameters
from calculator.lesson.figure import figure
from calculator.lesson.runs import ATTENTION_70B, B70, FULL_70B, GB, QLORA_70B
from calculator.resident import nf4

_A100_BYTES = gpu("a100-sxm4-80gb").usable_bytes

_WHY = "1. Why"
FULL = (
    figure(_WHY, "70B parameters in fp16", 140, "GB", "2 × N", FULL_70B.base_weights.bytes / GB),
    figure(_WHY, "their gradients in fp16", 140, "GB", "2 × N", FULL_70B.gradients.bytes / GB),
    figure(_WHY, "Adam's m in fp32", 280, "GB", "4 × N", 4 * B70 / GB),
    figure(_WHY, "Adam's v in fp32", 280, "GB", "4 × N", 4 * B70 / GB),
    figure(
        _WHY,
        "full fine-tuning of 70B with Adam",
        840,
        "GB",
        "(2 + 2 + 4 + 4) × N",
        FULL_70B.bytes / GB,
        "A rule of thumb, without activations or a master copy. Pure bf16 training keeps bf16 states, 8 bytes per"
        " parameter; AMP with float32 weights needs 16 or more.",
    ),
    figure(
        _WHY,
        "A100 80GB GPUs for that memory",
        11,
        "GPUs",
        "⌈840 GB ÷ 80 GB⌉",
        fewest_gpus(FULL_70B.bytes, 80 * GB),
        "A lower bound that counts memory only. It takes sharding, ZeRO-3 or FSDP2: without it, every GPU needs all"
        " 840 GB. What each of 11 GPUs then needs is among the figures of real models. A GPU sold as 80 GB, which are"
        f" GiB, offers a process {_A100_BYTES / GB:.1f} GB, so {fewest_gpus(FULL_70B.bytes, _A100_BYTES)} would be"
        " enough.",
    ),
)

_QLORA = "3. QLoRA"
QUANTIZED = (
    figure(
        _QLORA,
        "70B in NF4",
        35,
        "GB",
        "0.5 × N",
        QLORA_70B.base_weights.bytes / GB,
        "NF4 adds constants to its half byte: 4/64 byte per weight, or 1/64 + 4/(64 × 256) with double quantization."
        " Embeddings, norms and the output head are not quantized.",
    ),
    figure(_QLORA, "FP16 optimizer states", 560, "GB", "8 × N", FULL_70B.optimizer_states.bytes / GB),
    figure(
        _QLORA,
        "LoRA parameters, r = 64",
        0.17,
        "GB",
        "2 × 80 × r × (8192 + 8192)",
        QLORA_70B.adapter_weights.bytes / GB,
        f"This counts one 8192 × 8192 matrix in each of 80 layers. On q, k, v and o of Llama 70B, r = 64 adds"
        f" {ATTENTION_70B:,} parameters: {2 * ATTENTION_70B / GB:.2f} GB, or {4 * ATTENTION_70B / GB:.2f} GB in"
        " float32, PEFT's default.",
        decimals=2,
    ),
    figure(
        _QLORA,
        "LoRA optimizer states",
        0.5,
        "GB",
        "8 × 80 × r × (8192 + 8192)",
        QLORA_70B.optimizer_states.bytes / GB,
        "At the lesson's own 8 bytes per parameter it is 0.67 GB; its practice problem 3 has 0.68.",
        decimals=1,
    ),
    figure(
        _QLORA,
        "QLoRA in total",
        36,
        "GB",
        "0.5 × N + (2 + 8) × added",
        (QLORA_70B.bytes - QLORA_70B.gradients.bytes) / GB,
        "Here the lesson leaves out activations and the adapters' gradients.",
    ),
    figure(
        _QLORA,
        "reduction against full fine-tuning",
        23,
        "×",
        "840 GB ÷ 36 GB",
        FULL_70B.bytes / (QLORA_70B.bytes - QLORA_70B.gradients.bytes),
    ),
    figure(
        _QLORA,
        "a single 24 GB GPU can fine-tune a 70B model",
        24,
        "GB",
        "0.5 × N + (2 + 2 + 8) × added",
        QLORA_70B.bytes / GB,
        "It can't: 36 GB do not fit in 24 GB, and the real run needs more than 36.",
    ),
)

_NF4 = "3. QLoRA: NF4"
NORMAL_FLOAT = (
    figure(
        _NF4,
        "share of a Gaussian in each of NF4's 16 bins: the smallest",
        6.25,
        "%",
        "1 ÷ 16",
        100 * min(nf4.bin_masses()),
        "Nearly but not exactly equal: the levels are asymmetric, eight above zero, seven below, and an exact zero.",
        decimals=2,
    ),
    figure(
        _NF4,
        "share of a Gaussian in each of NF4's 16 bins: the largest",
        6.25,
        "%",
        "1 ÷ 16",
        100 * max(nf4.bin_masses()),
        "As above.",
        decimals=2,
    ),
)

_ADAPTERS = "4. Adapters"
ADAPTERS = (
    figure(
        _ADAPTERS,
        "two adapters a layer: d 4096, r 64, L 32",
        33,
        "million parameters",
        "2 × L × (2 × d × r + r + d)",
        2 * 32 * adapter_parameters(4096, 64) / 10**6,
        "4 × d × r × L is 33,554,432; with the biases 33,820,672. The lesson drops the decimals.",
    ),
)

_PREFIX = "5. Prefix tuning"
PREFIX = (
    figure(
        _PREFIX,
        "prefix on GPT-2 Medium: p 10, d 1024, L 24",
        490,
        "thousand parameters",
        "2 × p × d × L",
        prefix_parameters(10, 1024, 24) / 10**3,
        "491,520 exactly. With grouped-query attention the width is that of the keys: 2 × p × kv_dim × L.",
        decimals=-1,
    ),
)
