"""The effect on training of the `quantization_config` in a model's `config.json`.

Sources: transformers/utils/quantization_config.py, QuantizationMethod; the `is_trainable` of each quantizer in
transformers/quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from calculator.bases import BASES
from calculator.bases.config import QuantizationConfig, TorchAOType
from calculator.common.errors import PlanError, Problem
from calculator.inputs.settings import declared, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The path of the object in a request.
LOC = "model.config.quantization_config"

#: The formats whose checkpoints transformers dequantizes for training, with the argument that does so. LoRA can also
#: train over FP8 weights if the method names the format.
DEQUANTIZED = {
    "mxfp4": "Mxfp4Config(dequantize=True)",
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
}

#: The formats of bitsandbytes, which the method chooses.
CHOSEN_BY_METHOD = ("bitsandbytes",)

_NOT_TRAINABLE = "transformers does not train over it (is_trainable of its quantizer)"
_NOT_MODELED = "it is not modeled"

#: Why other formats are refused.
REFUSED = {
    "vptq": _NOT_TRAINABLE,
    "quanto": "PEFT has no LoRA layer of its own for it, and what its tensors allocate is not modeled",
    "higgs": _NOT_TRAINABLE,
    "fbgemm_fp8": _NOT_TRAINABLE,
    "gguf": _NOT_TRAINABLE,
    "bitnet": _NOT_TRAINABLE,
    "spqr": _NOT_TRAINABLE,
    "quark": _NOT_TRAINABLE,
    "fp_quant": _NOT_MODELED,
    "auto-round": _NOT_TRAINABLE,
    "nvfp4": _NOT_TRAINABLE,
    "mxfp8": _NOT_MODELED,
    "metal": _NOT_TRAINABLE,
    "fouroversix": _NOT_MODELED,
    "sinq": _NOT_MODELED,
    "gemma": _NOT_TRAINABLE,
}

#: Why a checkpoint in a format is refused although a method can choose the format for another checkpoint.
#: Source: transformers 5.24, quantizers/quantizer_hqq.py, which has no get_quantize_ops.
NOT_LOADED = {"hqq": "transformers 5.24 does not load it; the package hqq quantizes a dense checkpoint"}

#: The settings that change what is stored, with the values that are modeled.
FIXED: dict[str, tuple[Any, ...]] = {
    "version": (None, "gemm", "GEMM"),
    "modules_to_not_convert": (None, [], ["lm_head"]),
    "dynamic": (None, {}),
    "lm_head": (None, False),
    "is_marlin_format": (None, False),
    "checkpoint_format": (None, "gptq", "gptq_v2", "gemm"),
    "format": (None, "gptq", "gptq_v2", "gemm"),
    "modules_in_block_to_quantize": (None,),
    "scale_fmt": (None, "float"),
    "modules_to_convert": (None, []),
    "in_group_size": (None, 8),
    "out_group_size": (None, 1),
}

#: Why a setting is refused, if the reason is not that it is not modeled.
#: Source: aqlm 1.1.7, inference_kernels/cuda_kernel.cpp, code1x16_matmat_dequant_transposed.
WHY_FIXED = {
    "in_group_size": "aqlm 1.1.7 takes every code for 8 inputs in its backward pass, which fails with other groups"
}

#: AQLM's list of dense layers, and the name that transformers must find there.
DENSE, HEAD = "linear_weights_not_to_quantize", "lm_head"

#: The modeled configs of torchao, by their names in config.json files.
TORCHAO: dict[Any, TorchAOType] = {
    "Int8WeightOnlyConfig": "Int8WeightOnlyConfig",
    "int8_weight_only": "Int8WeightOnlyConfig",
    "Float8WeightOnlyConfig": "Float8WeightOnlyConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
}

_WAY_OUT = "take quantization_config out of the config for the model in training.dtype"


def method_of(stated: Any) -> str | None:
    """Return the `quant_method` of a `quantization_config`, as transformers reads it. None if there is none."""
    if not isinstance(stated, Mapping):
        return None
    named = stated.get("quant_method")
    if named is None and (stated.get("load_in_4bit") or stated.get("load_in_8bit")):
        return "bitsandbytes"
    return named if isinstance(named, str) else None


def read(stated: Any) -> QuantizationConfig | None:
    """Return the modeled base of a `quantization_config`. None for others, for which `problems` yields the reasons."""
    name = method_of(stated)
    if name not in BASES or name in (*DEQUANTIZED, *NOT_LOADED) or any(_setting_problems(stated)):
        return None
    try:
        return _parsed(stated)
    except PlanError:
        return None


def kept_quantization(stated: Any, chosen: QuantizationConfig | None) -> QuantizationConfig | None:
    """Return the quantized base of a checkpoint if the method keeps it. By default transformers dequantizes it."""
    name = method_of(stated)
    if chosen is None or name not in DEQUANTIZED or chosen.quant_method != name or any(_setting_problems(stated)):
        return None
    return _parsed(stated)


def _torchao_type(stated: Mapping[str, Any]) -> Any:
    """Return the name of torchao's config, which transformers writes as an object or as a string."""
    kind = stated.get("quant_type")
    default = kind.get("default") if isinstance(kind, Mapping) else kind
    return default.get("_type") if isinstance(default, Mapping) else default


def _parsed(stated: Mapping[str, Any]) -> QuantizationConfig:
    names = {field.name for field in declared(QuantizationConfig)}
    settings = {key: stated[key] for key in stated if key in names}
    if "quant_type" in settings:
        settings["quant_type"] = TORCHAO.get(_torchao_type(stated), "Int8WeightOnlyConfig")
    return parse(QuantizationConfig, settings, LOC)


def _setting_problems(stated: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the settings that change what is stored in a way that is not modeled."""
    kind = _torchao_type(stated)
    if stated.get("quant_method") == "torchao" and kind not in TORCHAO:
        types = " and ".join(get_args(TorchAOType))
        message = f"of torchao, {types} are modeled; transformers does not train over 4 bits: {_WAY_OUT}"
        yield Problem(loc=f"{LOC}.quant_type", msg=message, input=kind)
    for key, values in FIXED.items():
        if stated.get(key) not in values:
            message = f"{WHY_FIXED.get(key, 'a base with this setting is not modeled')}: {_WAY_OUT}"
            yield Problem(loc=f"{LOC}.{key}", msg=message, input=stated[key])
    if stated.get("quant_method") == "aqlm":
        yield from _aqlm_problems(stated.get(DENSE))


def _aqlm_problems(dense: Any) -> Iterator[Problem]:
    """Yield a problem if the list of dense layers lacks the head, or has other layers.

    Names of weights in the list match no module and have no effect.

    Source: transformers 5.24, integrations/aqlm.py, replace_with_aqlm_linear.
    """
    if not isinstance(dense, list) or HEAD not in dense:
        message = (
            f"transformers 5.24 compares the list with paths of modules, and would store the output head in AQLM, which"
            f' checkpoints have dense: add "{HEAD}" to the list in the config.json, here and where you train'
        )
        yield Problem(loc=f"{LOC}.{DENSE}", msg=message, input=dense)
    elif others := [name for name in dense if name != HEAD and not str(name).endswith(".weight")]:
        message = f"linear layers that AQLM leaves dense are not modeled, except {HEAD}: {_WAY_OUT}"
        yield Problem(loc=f"{LOC}.{DENSE}", msg=message, input=others)


def problems(stated: Any, chosen: QuantizationConfig | None, *, low_rank: bool) -> Iterator[Problem]:
    """Yield why a method can't train over the base in a `config.json`.

    `chosen` is the base in the method's own settings. `low_rank` is true for LoRA in 16 or 32 bits.
    """
    if stated is not None and not isinstance(stated, Mapping):
        yield Problem(loc=LOC, msg="must be an object", input=stated)
    name = method_of(stated)
    if name is None or name in CHOSEN_BY_METHOD:
        return
    if name in DEQUANTIZED:
        if chosen is not None and chosen.quant_method != name:
            message = f"the config.json states {name}: leave it out, or {_WAY_OUT}"
            yield Problem(loc="method.quantization_config.quant_method", msg=message, input=chosen.quant_method)
        elif chosen is not None:
            yield from _config_problems(stated)
        return
    if name not in BASES or name in NOT_LOADED:
        reasons = {**REFUSED, **NOT_LOADED}
        message = f"a base in {name}: {reasons.get(name, 'no known format')}; {_WAY_OUT}"
        yield Problem(loc=f"{LOC}.quant_method", msg=message, input=name)
    elif chosen is not None:
        if chosen.quant_method != name:
            message = f"the config.json states {name}, which PEFT does not dequantize: leave it out, or {_WAY_OUT}"
            yield Problem(loc="method.quantization_config.quant_method", msg=message, input=chosen.quant_method)
    elif not low_rank:
        message = f"over a base in {BASES[name].label}, lora without load_in_8bit is modeled: use that, or {_WAY_OUT}"
        yield Problem(loc=f"{LOC}.quant_method", msg=message, input=name)
    else:
        yield from _config_problems(stated)


def _config_problems(stated: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _setting_problems(stated)
    try:
        _parsed(stated)
    except PlanError as error:
        yield from error.problems


def loaded(stated: Any, dtype: str) -> Iterator[str]:
    """Yield how the figures load a quantized checkpoint if the method names no base."""
    name = method_of(stated)
    if name in DEQUANTIZED:
        yield (
            f"The checkpoint is in {name}. The figures are for the model loaded with {DEQUANTIZED[name]}: weights are"
            f" in {dtype}."
        )
    elif stated and name not in BASES:
        yield (
            f"The figures ignore the quantization_config of the config.json: weights are in {dtype}. Choose qlora for a"
            " base in 4 bits, or load_in_8bit."
        )
