"""Settings that other draws leave out, drawn apart from them: they leave all other requests unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.methods import METHODS

if TYPE_CHECKING:
    import random

    from calculator.architecture.model import Model
    from calculator.common.names import MethodName
    from validation.random_grid.random_requests import Options

#: The share of requests with such settings: of any method, and of one method alone.
SHARE, SHARE_ALONE = 0.1, 0.5

#: How often each of them is set where any is.
_OFTEN = 0.5

#: Options of methods whose values differ from the defaults.
OPTIONS: dict[MethodName, Options] = {
    "lora": {"init_lora_weights": (0.3, ("mica", False))},
    "qlora": {"init_lora_weights": (0.3, ("mica", False)), "quant_storage": (0.2, ("bfloat16", "float32"))},
    "adalora": {"target_r": (_OFTEN, (2, 4)), "orth_reg_weight": (_OFTEN, (0.1,)), "total_step": (_OFTEN, (10,))},
    "boft": {"boft_block_num": (_OFTEN, (2, 4)), "boft_n_butterfly_factor": (_OFTEN, (0, 2))},
    "delora": {"delora_lambda": (_OFTEN, (0, 1))},
    "fourierft": {"scaling": (_OFTEN, (1.0, 300.0))},
    "gralora": {"alpha": (_OFTEN, (4, 8))},
    "hra": {"apply_GS": (_OFTEN, (True,))},
    "lily": {"scaling": (_OFTEN, (2.0,))},
    "loha": {"alpha": (_OFTEN, (1, 16))},
    "lokr": {"alpha": (_OFTEN, (1, 16))},
    "oft": {"r": (0.3, (2, 4, 8))},
    "peanut": {"scaling": (_OFTEN, (2.0,))},
    "psoft": {"psoft_mag_a": (_OFTEN, (False,)), "psoft_alpha": (_OFTEN, (8,))},
    "randlora": {"randlora_alpha": (_OFTEN, (8, 64)), "save_projection": (_OFTEN, (False,))},
    "unilora": {"save_indices": (_OFTEN, (True,))},
    "vera": {"save_projection": (_OFTEN, (False,))},
    "waveft": {"scaling": (_OFTEN, (1.0, 2.0))},
    "xlora": {"softmax_temperature": (_OFTEN, (2.0,)), "global_scaling_weight": (_OFTEN, (0.5, 2.0))},
}

#: Pairs of options of which PEFT takes one.
ONE_OF: dict[MethodName, tuple[tuple[str, str], ...]] = {
    "boft": (("boft_block_num", "boft_block_size"),),
    "oft": (("r", "oft_block_size"),),
}

#: Data types, among them those under autocast: a step in two half-precision types, and adapters in the model's.
DTYPES: Options = {
    "autocast": (0.8, ("bfloat16", "float16")),
    "dtype": (0.6, ("bfloat16", "float16", "float32")),
    "adapter_dtype": (0.5, ("model",)),
}


def rare_options(
    rng: random.Random, model: Model, method: dict[str, Any], training: dict[str, Any], *, is_alone: bool
) -> None:
    """Set options that the other draws leave out, in a share of the requests."""
    if rng.random() >= (SHARE_ALONE if is_alone else SHARE):
        return
    name, has = method["name"], METHODS[method["name"]].__dataclass_fields__
    method |= _set(rng, OPTIONS.get(name, {}))
    for chosen, other in ONE_OF.get(name, ()):
        if chosen in method:
            method.pop(other, None)
    linear = sorted({path.rpartition(".")[2] for path, module in model.paths if module.kind in ("linear", "conv1d")})
    if "exclude_modules" in has and "target_modules" in method and rng.random() < 0.3:
        method["exclude_modules"] = [rng.choice(linear)]
    if "alpha_pattern" in has and rng.random() < 0.3:
        method["alpha_pattern"] = {rng.choice(linear): rng.choice((1, 16))}
    training |= _set(rng, DTYPES)


def _set(rng: random.Random, options: Options) -> dict[str, Any]:
    return {name: rng.choice(values) for name, (share, values) in options.items() if rng.random() < share}
