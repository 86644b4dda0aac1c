"""The `quantization_config` of a request: how the frozen base of LoRA is stored, in the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from calculator.inputs.settings import setting

#: The `quant_method` of the modeled bases, as transformers spells it.
QuantMethod = Literal["gptq", "awq", "torchao", "fp8", "hqq", "eetq", "aqlm"]

#: The modeled configs of torchao, as TorchAoConfig's quant_type names them.
TorchAOType = Literal["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"]


#: Other formats that users try, and what to use instead.
#: Sources: transformers 5.24, is_trainable in quantizers/quantizer_mxfp4.py and quantizer_fbgemm_fp8.py, and
#: integrations/mxfp4.py, whose experts run kernels without a backward pass.
INSTEAD = {
    "bitsandbytes": "Choose qlora for 4 bits, or load_in_8bit",
    "mxfp4": "transformers trains over no experts in MXFP4 (their kernels have no backward pass): leave it out, and the"
    " figures are for the model loaded with Mxfp4Config(dequantize=True)",
    "fbgemm_fp8": "transformers does not train over FBGEMM's FP8 (is_trainable): use fp8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """The settings of a quantized base, named as in transformers' config class for its `quant_method`."""

    quant_method: QuantMethod | None = setting(
        None,
        label="Quantized base",
        help="The format that stores linear layers of the base, as quant_method of a quantization_config. Null means"
        " what the model's config.json states.",
        example="gptq",
        empty="as config.json states",
        instead=INSTEAD,
    )
    bits: int = setting(
        4, label="Bits of the base", help="Bits per weight of the quantized base.", minimum=2, maximum=8
    )
    group_size: int | None = setting(
        None,
        label="Group size",
        help="Inputs of the quantized base that share a scale; -1 means all. Null means the library's default.",
        minimum=-1,
        maximum=65_536,
        example=128,
        empty="the library's default",
    )
    desc_act: bool = setting(
        False,
        label="Activation order",
        help="Whether GPTQ ordered columns by their activations (desc_act). Memory is the same: the index of each"
        " column's group is stored either way.",
    )
    quant_type: TorchAOType = setting(
        "Int8WeightOnlyConfig",
        label="Type of torchao",
        help="The config of torchao that stores the base: integers of 8 bits, or floats of 8 bits.",
        instead={
            "Int4WeightOnlyConfig": "Transformers and PEFT do not train over 4 bits of torchao: use 8 bits, or qlora",
        },
    )
    weight_block_size: tuple[int, ...] | None = setting(
        (128, 128),
        label="Block size of FP8",
        help="Outputs and inputs of an FP8 base that share a scale, two numbers; null means all of a weight.",
        empty="one scale for each weight",
    )
    activation_scheme: Literal["dynamic", "static"] = setting(
        "dynamic",
        label="Scales of FP8's inputs",
        help="Whether an FP8 base has a stored scale for the input of each layer (static) or computes it (dynamic).",
    )
    num_codebooks: int = setting(
        1, label="Code books of AQLM", help="The code books whose vectors AQLM adds up.", minimum=1, maximum=8
    )
    nbits_per_codebook: int = setting(
        16,
        label="Bits of AQLM's codes",
        help="Bits of a code, which stands for 8 weights; a code book has a vector for each code.",
        minimum=2,
        maximum=16,
    )
