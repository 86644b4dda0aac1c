"""Random requests of LoRA over a quantized base."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.bases import BASES
from calculator.common.errors import PlanError
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_model
from validation.random_grid.random_requests import random_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.bases import QuantMethod

#: The settings of each base, with the share of requests that set them.
OPTIONS: dict[QuantMethod, dict[str, tuple[float, tuple[Any, ...]]]] = {
    "gptq": {
        "bits": (0.4, (2, 8)),
        "group_size": (0.5, (-1, 16, 32, 64)),
        "desc_act": (0.2, (True,)),
    },
    "torchao": {"quant_type": (0.5, ("Float8WeightOnlyConfig",))},
    "awq": {"group_size": (0.5, (-1, 16, 32, 64))},
    "hqq": {"bits": (0.5, (2, 3, 8)), "group_size": (0.5, (-1, 16, 128))},
    "eetq": {},
    "aqlm": {"num_codebooks": (0.6, (2,))},
    "fp8": {
        "weight_block_size": (0.7, (None, [32, 32], [16, 64])),
        "activation_scheme": (0.3, ("static",)),
    },
}


def random_base_request(seed: int, number: int, families: Sequence[str], base: QuantMethod) -> dict[str, Any]:
    """Return the body of one request, with modules by name where PEFT's all-linear finds none."""
    rng = random.Random(f"{seed} {number} {base}")
    request = random_request(seed, number, families, "lora")
    method = request["method"]
    method.pop("load_in_8bit", None)
    config: dict[str, Any] = {"quant_method": base}
    for name, (share, values) in OPTIONS[base].items():
        if rng.random() < share:
            config[name] = rng.choice(values)
    if method.get("target_modules") == "all-linear" and not BASES[base].is_linear:
        method["target_modules"] = _linear(request)
    if base not in ("gptq", "fp8"):
        request["training"] = {**request["training"], "autocast": None}
    if base == "fp8":
        method["bias"], request["training"]["adapter_dtype"] = "none", "float32"
    if base == "eetq":
        method["bias"], request["training"]["dtype"] = "none", "float16"
    if base == "aqlm":
        config["nbits_per_codebook"] = 8 if config.get("num_codebooks") == 2 or rng.random() < 0.3 else 16
        request["training"]["dtype"] = rng.choice(("float16", "bfloat16"))
    if base == "awq":
        request["training"]["dtype"] = rng.choice(("float16", "float32"))
    return {**request, "method": {**method, "quantization_config": config}}


def _linear(request: dict[str, Any]) -> Any:
    """Return the names of the layers' linear modules."""
    try:
        model = model_of(parse_model(request["model"]))
    except PlanError:
        return "all-linear"
    return sorted({path.rpartition(".")[2] for path, module in model.paths if module.quantizable and "*" in path})
