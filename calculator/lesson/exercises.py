"""The figures of the lesson's worked examples and practice problems."""

from calculator.estimation.textbook import compression, fewest_gpus, lora_parameters, prefix_parameters
from calculator.lesson.figure import figure
from calculator.lesson.runs import (
    B7,
    B13,
    FULL_70B,
    GB,
    LAYER_70B,
    QLORA_13B,
    QLORA_13B_R256,
    QLORA_70B,
    R8_7B,
    R16_13B,
    R256_13B,
)
from calculator.lesson.worked.product import Product, vectors

_ONE = "Example 1: LoRA on 7B"
_TWO = "Example 2: 13B on a 24 GB GPU"
_THREE = "Example 3: a product by hand"
_BY_HAND = vectors(Product())
_NO_ACTIVATIONS = "The 0.5 GB of activations are the lesson's assumption."
EXAMPLES = (
    figure(_ONE, "r 8 on one 4096 × 4096 matrix", 65_536, "parameters", "r × (d + k)", lora_parameters(4096, 4096, 8)),
    figure(_ONE, "on Q, K, V, O of 32 layers", 8_388_608, "parameters", "4 × 32 × r × (d + k)", R8_7B),
    figure(_ONE, "share of 7B", 0.12, "%", "8,388,608 ÷ 7 × 10⁹", 100 * R8_7B / B7, decimals=2),
    figure(_TWO, "13B in NF4", 6.5, "GB", "0.5 × N", QLORA_13B.base_weights.bytes / GB, decimals=1),
    figure(
        _TWO,
        "LoRA and optimizer, r 16",
        0.3,
        "GB",
        "(2 + 2 + 8) × 40 × 4 × r × (5120 + 5120)",
        (QLORA_13B.bytes - QLORA_13B.base_weights.bytes) / GB,
        f"{R16_13B:,} parameters at 12 bytes; with float32 weights and gradients it is 16 bytes each.",
        decimals=1,
    ),
    figure(
        _TWO,
        "total, batch 1",
        7.3,
        "GB",
        "6.5 + 0.3 + 0.5",
        QLORA_13B.bytes / GB + 0.5,
        _NO_ACTIVATIONS,
        decimals=1,
    ),
    figure(
        _TWO,
        "left on a 24 GB GPU",
        16.7,
        "GB",
        "24 − 7.3",
        24 - QLORA_13B.bytes / GB - 0.5,
        "An RTX 4090's “24 GB” are GiB, which is 25.8 GB. A process can use 24,081 MiB, or 25.3 GB, including the CUDA"
        " context.",
        decimals=1,
    ),
    figure(
        _TWO,
        "r 256 on the 13B model",
        268,
        "million parameters",
        "40 × 4 × r × (5120 + 5120)",
        R256_13B / 10**6,
        f"268 million is the count for the 7B: 8.4M × 256 ÷ 8. With d 5120 and L 40, r 256 adds {R256_13B:,}.",
    ),
    figure(
        _TWO,
        "memory for r 256",
        0.5,
        "GB",
        "(2 + 2 + 8) × 419,430,400",
        (QLORA_13B_R256.bytes - QLORA_13B_R256.base_weights.bytes) / GB,
        "0.5 GB is the 7B's weights alone. Gradients and Adam states come on top, and the 13B has more parameters.",
        decimals=1,
    ),
    figure(
        _TWO,
        "total with r 256 stays under",
        8,
        "GB",
        "6.5 + (2 + 2 + 8) × 0.42 + 0.5",
        QLORA_13B_R256.bytes / GB + 0.5,
        "By the lesson's own rules it does not, though it still fits a 24 GB GPU.",
    ),
    figure(_THREE, "first component of W₀x", 3, "", "1 × 1 + 2 × 1", _BY_HAND["W₀x"][0]),
    figure(_THREE, "second component of W₀x", 7, "", "3 × 1 + 4 × 1", _BY_HAND["W₀x"][1]),
    figure(_THREE, "first component of BAx", 0.09, "", "0.3 × (0.1 + 0.2)", _BY_HAND["BAx"][0], decimals=2),
    figure(_THREE, "second component of BAx", 0.12, "", "0.4 × (0.1 + 0.2)", _BY_HAND["BAx"][1], decimals=2),
    figure(_THREE, "first component", 3.045, "", "3 + ½ × 0.09", _BY_HAND["h"][0], decimals=3),
    figure(_THREE, "second component", 7.06, "", "7 + ½ × 0.12", _BY_HAND["h"][1], decimals=3),
    figure(
        _THREE,
        "change of the first component",
        1.5,
        "%",
        "0.045 ÷ 3",
        100 * (_BY_HAND["h"][0] / _BY_HAND["W₀x"][0] - 1),
        "The second changes by 0.9 %. A and B have rank 1; r = 2 matters only in α ÷ r.",
        decimals=1,
    ),
)

_P1 = "Problem 1"
_P2 = "Problem 2"
_ASSUMED = "The activations are the lesson's assumption."
_P3 = "Problem 3: QLoRA r 64 on 70B"
_P5 = "Problem 5"
PROBLEMS = (
    figure(_P1, "A with r 16, for W 1024 × 4096", 65_536, "parameters", "r × k", 16 * 4096),
    figure(_P1, "B", 16_384, "parameters", "d × r", 1024 * 16),
    figure(_P1, "W 1024 × 4096, r 16", 81_920, "parameters", "r × (d + k)", lora_parameters(1024, 4096, 16)),
    figure(_P1, "compression", 51.2, "×", "d × k ÷ (r × (d + k))", compression(1024, 4096, 16), decimals=1),
    *(
        figure(
            _P2,
            f"largest change of W₀x with B = 0 and A = {A}",
            0,
            "",
            "(α ÷ r) × 0 · Ax",
            max(abs(v) for v in vectors(Product(A=A, B="0; 0"))["scaled"]),
        )
        for A in ("0.1, 0.2", "-3, 1e5", "0, 0")
    ),
    figure(
        _P3,
        "inference: 35 GB and one dequantized layer",
        (36, 37),
        "GB",
        "0.5 × N + 2 × (2 × d × d + 2 × d × kv_dim + 3 × d × mlp)",
        (QLORA_70B.base_weights.bytes + 2 * LAYER_70B) / GB,
        "bitsandbytes dequantizes one matrix at a time. The largest, 8192 × 28672, needs 0.47 GB, or 35.5 GB in total.",
        decimals=1,
    ),
    figure(
        _P3,
        "LoRA parameters in 16 bits; their gradients need the same",
        0.17,
        "GB",
        "2 × 80 × r × (8192 + 8192)",
        QLORA_70B.gradients.bytes / GB,
        decimals=2,
    ),
    figure(
        _P3,
        "Adam's states of the LoRA parameters",
        0.68,
        "GB",
        "8 × 80 × r × (8192 + 8192)",
        QLORA_70B.optimizer_states.bytes / GB,
        "0.67: the lesson multiplies the rounded 0.17 by four.",
        decimals=2,
    ),
    figure(
        _P3,
        "training with 2 GB of activations",
        38,
        "GB",
        "35 + 0.17 + 0.17 + 0.68 + 2",
        QLORA_70B.bytes / GB + 2,
        _ASSUMED,
    ),
    figure(
        _P3,
        "training with 3 GB of activations",
        39,
        "GB",
        "35 + 0.17 + 0.17 + 0.68 + 3",
        QLORA_70B.bytes / GB + 3,
        _ASSUMED,
    ),
    figure(
        _P3,
        "A100 80GB GPUs for full fine-tuning",
        11,
        "GPUs",
        "⌈840 GB ÷ 80 GB⌉",
        fewest_gpus(FULL_70B.bytes, 80 * GB),
    ),
    figure(_P5, "prefix p 20, d 4096, L 40", 6_553_600, "parameters", "2 × p × d × L", prefix_parameters(20, 4096, 40)),
    figure(
        _P5,
        "share of 13B",
        0.05,
        "%",
        "6,553,600 ÷ 13 × 10⁹",
        100 * prefix_parameters(20, 4096, 40) / B13,
        decimals=2,
    ),
)
