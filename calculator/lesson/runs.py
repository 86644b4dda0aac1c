"""The lesson's runs, with parameters and bytes by its own rules."""

from calculator.estimation.textbook import Accounting, accounting, lora_parameters

GB = 10**9
B7 = 7 * 10**9
B13 = 13 * 10**9
B70 = 70 * 10**9


def qlora(base: int, added: int) -> Accounting:
    """Return the memory of a run whose whole base is frozen in 4 bits."""
    return accounting(base=base, added=added, trainable=added, quantized=base)


FULL_70B = accounting(base=B70, added=0, trainable=B70)

SQUARES_70B = 80 * lora_parameters(8192, 8192, 64)
"""r 64 on one 8192 × 8192 matrix in each of 80 layers: the count behind the lesson's 0.17 GB."""

ATTENTION_70B = 80 * (2 * lora_parameters(8192, 8192, 64) + 2 * lora_parameters(1024, 8192, 64))
"""r 64 on q, k, v and o of Llama 2 or 3 70B, whose keys and values are 1,024 wide."""

QLORA_70B = qlora(B70, SQUARES_70B)

LAYER_70B = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672
"""The linear weights of one decoder layer of Llama 2 or 3 70B."""

R8_7B = 32 * 4 * lora_parameters(4096, 4096, 8)
R16_13B = 40 * 4 * lora_parameters(5120, 5120, 16)
R256_13B = 40 * 4 * lora_parameters(5120, 5120, 256)
QLORA_13B = qlora(B13, R16_13B)
QLORA_13B_R256 = qlora(B13, R256_13B)
