"""The quantized bases of a script other than those of bitsandbytes: transformers' config classes, and the package hqq.

Source: transformers 5.24, utils/quantization_config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.bases import config_json

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

#: The `quant_method` of each config class.
METHODS = {
    "GPTQConfig": "gptq",
    "AwqConfig": "awq",
    "TorchAoConfig": "torchao",
    "FineGrainedFP8Config": "fp8",
    "HqqConfig": "hqq",
    "AutoHQQHFModel.quantize_model": "hqq",
    "Mxfp4Config": "mxfp4",
    "AqlmConfig": "aqlm",
    "EetqConfig": "eetq",
    "FbgemmFp8Config": "fbgemm_fp8",
    "QuantoConfig": "quanto",
    "HiggsConfig": "higgs",
    "SinqConfig": "sinq",
}

#: The config classes of torchao that TorchAoConfig takes.
OF_TORCHAO = r"(?:Int|UInt|Float)\d\w{0,60}Config"

#: Arguments that quantize, or that choose a kernel.
OF_QUANTIZING = (
    "dataset",
    "tokenizer",
    "backend",
    "sym",
    "damp_percent",
    "true_sequential",
    "use_exllama",
    "disable_exllama",
    "exllama_config",
    "max_input_length",
    "zero_point",
    "version",
    "do_fuse",
    "fuse_max_seq_len",
)

_USED = "16-bit weights are used"


def quantized_base(keys: Keys, calls: tuple[str, ...]) -> dict[str, Any]:
    """Return the quantization_config of the base; empty if it is dequantized, or not modeled, which is noted."""
    name = next((METHODS[call] for call in calls if call in METHODS), None)
    if name is None:
        return {}
    keys.forget(OF_QUANTIZING)
    if name in ("gptq", "awq"):
        sizes = {"bits": keys.integer("bits", 4), "group_size": keys.integer("group_size", 128)}
        return {"quant_method": name, "desc_act": keys.flag("desc_act"), **sizes}
    if name == "hqq":
        return _hqq(keys)
    if name == "eetq":
        return _eetq(keys)
    if name == "aqlm":
        keys.forget(("in_group_size", "out_group_size", "linear_weights_not_to_quantize"))
        books = {"num_codebooks": keys.integer("num_codebooks", 1)}
        return {"quant_method": name, **books, "nbits_per_codebook": keys.integer("nbits_per_codebook", 16)}
    if name == "torchao":
        return _torchao(keys, calls)
    if name in config_json.DEQUANTIZED:
        return _dequantized(keys, name)
    keys.miss("quantization_config", name, f"{config_json.REFUSED[name]}: {_USED}")
    return {}


def _hqq(keys: Keys) -> dict[str, Any]:
    keys.forget(("compute_dtype", "device"))
    axis = keys.take("axis", 1)
    if axis not in (1, None):
        keys.miss("axis", axis, "groups along outputs are not modeled: axis 1 is used")
    return {"quant_method": "hqq", "bits": keys.integer("nbits", 4), "group_size": keys.integer("group_size", 64)}


def _eetq(keys: Keys) -> dict[str, Any]:
    keys.forget(("weights",))  # int8, its only value
    dense = keys.take("modules_to_not_convert")
    if dense:
        keys.miss("modules_to_not_convert", dense, "all linear layers except the output head are stored in EETQ")
    return {"quant_method": "eetq"}


def _torchao(keys: Keys, calls: tuple[str, ...]) -> dict[str, Any]:
    named = keys.take("quant_type")
    kind = next((call for call in calls if call.endswith("WeightOnlyConfig")), named)
    if kind in config_json.TORCHAO:
        return {"quant_method": "torchao", "quant_type": config_json.TORCHAO[kind]}
    other = next((call for call in calls if call not in METHODS and call.startswith(("Int", "UInt", "Float"))), kind)
    keys.miss("quant_type", other, f"of torchao, weights in 8 bits without quantized inputs are modeled: {_USED}")
    return {}


def _dequantized(keys: Keys, name: str) -> dict[str, Any]:
    if keys.flag("dequantize"):
        return {}
    if name != "fp8":
        keys.miss("quantization_config", name, f"transformers does not train over it while it is quantized: {_USED}")
        return {}
    size, scheme = keys.take("weight_block_size", (128, 128)), keys.take("activation_scheme", "dynamic")
    block = list(size) if isinstance(size, list | tuple) else size
    return {"quant_method": "fp8", "weight_block_size": block, "activation_scheme": scheme}
