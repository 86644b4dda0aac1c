"""Seeded random requests over families, methods and options: real models of few layers, and random ones."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.architecture.config import Field
from calculator.common.errors import PlanError
from calculator.families import FAMILIES, model_from_config
from calculator.methods import METHODS
from calculator.methods.targeted.method import TargetedMethod
from calculator.resident.optimizers import OPTIMIZERS
from validation.random_grid.active_layer_options import active_layer_options
from validation.random_grid.layer_options import RANKS, block_diagonal, layer_options, replication
from validation.random_grid.random_configs import MIDDLING, random_config
from validation.random_grid.rare_options import rare_options
from validation.random_grid.unfrozen_options import cast_copies, unfrozen_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.common.names import MethodName
    from calculator.families.family import Family

#: Options by name: how often each is set, and its values.
Options = dict[str, tuple[float, tuple[Any, ...]]]

TRAINING: Options = {
    "micro_batch_size": (0.8, (1, 2, 3, 4, 5, 8, 12, 16)),
    "sequence_length": (1.0, (16, 64, 128, 200, 256, 384, 512, 777, 1000, 1024, 1536, 2048, 3001, 4096, 8192)),
    "gradient_accumulation_steps": (0.4, (2, 4, 8)),
    "dtype": (0.35, ("float16", "float32")),
    "autocast": (0.1, ("bfloat16", "float16")),
    "adapter_dtype": (0.3, ("model",)),
    "gradient_checkpointing": (0.45, (True,)),
    "attention": (0.4, ("eager", "flash_attention_2")),
    "padding": (0.3, (True,)),
    "optimizer": (0.6, tuple(name for name, optimizer in OPTIMIZERS.items() if not optimizer.on_one_gpu)),
    "max_grad_norm": (0.25, (None, 0.3)),
}

#: How often a method has dropout.
DROPOUT = (0.3, (0.05, 0.1))

LOW_RANK: Options = {
    "r": (0.9, (1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64, 100, 128, 256)),
    "lora_alpha": (0.5, (16, 32.0)),
    "lora_dropout": (0.35, (0.05, 0.1)),
    "use_rslora": (0.2, (True,)),
    "use_dora": (0.15, (True,)),
    "bias": (0.2, ("all", "lora_only")),
}

#: The options of methods that have any.
OPTIONS: dict[MethodName, Options] = {
    "lora": LOW_RANK,
    "qlora": LOW_RANK
    | {
        "quant_type": (0.3, ("fp4",)),
        "double_quant": (0.35, (False,)),
        "blocksize": (0.3, (32, 128, 256, 512, 4096)),
        "prepare_model_for_kbit_training": (0.35, (False,)),
    },
    "adapter": {
        "bottleneck_size": (0.8, (1, 8, 16, 48, 64, 128, 256)),
        "placement": (0.5, ("pfeiffer",)),
        "non_linearity": (0.5, ("gelu", "silu", "tanh")),
    },
    "prefix": {"num_virtual_tokens": (0.8, (1, 5, 10, 30, 100, 200)), "prefix_projection": (0.25, (True,))},
    "prompt": {"num_virtual_tokens": (0.8, (1, 5, 10, 30, 100, 200))},
    "ia3": {"init_ia3_weights": (0.1, (False,))},
    "miss": {
        "r": (0.9, RANKS),
        "miss_dropout": DROPOUT,
        "init_weights": (0.5, ("bat", "mini", False)),
        "mini_r": (0.5, (1, 2, 4, 8)),
        "bias": (0.2, ("all", "miss_only")),
    },
    "vera": {"r": (0.9, RANKS), "vera_dropout": DROPOUT, "bias": (0.2, ("all", "vera_only"))},
    "loha": {"r": (0.9, RANKS), "rank_dropout": DROPOUT},
    "beft": {},
    "p_tuning": {"num_virtual_tokens": (0.8, (1, 5, 10, 30, 100)), "encoder_hidden_size": (0.5, (16, 100, 128))},
    "hira": {"r": (0.9, RANKS), "hira_dropout": DROPOUT},
    "delora": {"r": (0.9, RANKS), "module_dropout": DROPOUT, "bias": (0.2, ("all", "delora_only"))},
    "gralora": {
        "r": (0.9, (4, 8, 16, 24, 32, 64)),
        "hybrid_r": (0.3, (2, 4, 8)),
        "gralora_k": (0.4, (1, 4, 8)),
        "gralora_dropout": DROPOUT,
        "bias": (0.2, ("all", "gralora_only")),
    },
    "hra": {"r": (0.9, (1, 2, 4, 8, 12)), "bias": (0.2, ("all", "hra_only"))},
    "randlora": {"r": (0.9, (8, 12, 16, 32, 64)), "randlora_dropout": DROPOUT, "bias": (0.2, ("all", "randlora_only"))},
    "oft": {
        "oft_block_size": (0.8, (2, 4, 8, 16, 24, 64)),
        "block_share": (0.3, (True,)),
        "num_cayley_neumann_terms": (0.4, (2, 3, 4, 8)),
        "bias": (0.2, ("all", "oft_only")),
        "use_cayley_neumann": (0.3, (False,)),
    },
    "road": {"variant": (0.6, ("road_2", "road_4")), "group_size": (0.8, (2, 4, 8, 16, 32))},
    "trainable_tokens": {"token_indices": (0.7, ([0], [1, 2, 3], list(range(17)), list(range(100, 400))))},
    "fourierft": {"n_frequency": (0.8, (1, 100, 500, 3000)), "bias": (0.2, ("all", "fourier_only"))},
    "waveft": {
        "n_frequency": (0.8, (1, 100, 500, 3000)),
        "wavelet_family": (0.5, ("db2", "db7", "sym4", "coif3")),
        "use_idwt": (0.2, (False,)),
        "bias": (0.2, ("all", "waveft_only")),
    },
    "lokr": {
        "r": (0.9, RANKS),
        "rank_dropout": DROPOUT,
        "decompose_both": (0.3, (True,)),
        "decompose_factor": (0.4, (2, 4, 8, 16)),
    },
    "deft": {
        "r": (0.9, RANKS),
        "alpha": (0.4, (16, 128)),
        "para": (0.3, (True,)),
        "deft_dropout": DROPOUT,
        "bias": (0.2, ("all", "deft_only")),
    },
    "vblora": {
        "r": (0.9, RANKS),
        "num_vectors": (0.5, (2, 16, 90, 1000)),
        "vector_length": (0.8, (1, 2, 8, 16, 32, 64)),
        "topk": (0.4, (1, 3, 8)),
        "vblora_dropout": DROPOUT,
        "bias": (0.2, ("all", "vblora_only")),
    },
    "pvera": {"r": (0.9, RANKS), "pvera_dropout": DROPOUT, "bias": (0.2, ("all", "pvera_only"))},
    "adalora": {"init_r": (0.9, RANKS), "lora_dropout": DROPOUT, "bias": (0.2, ("all", "lora_only"))},
    "tinylora": {
        "r": (0.7, RANKS),
        "u": (0.5, (1, 8, 100)),
        "weight_tying": (0.3, (1.0, 0.5)),
        "tinylora_dropout": DROPOUT,
        "bias": (0.2, ("all", "tinylora_only")),
    },
    "peanut": {"r": (0.9, RANKS), "depth": (0.5, (1, 2)), "act_fn": (0.4, ("gelu", "silu", "tanh"))},
    "glora": {
        "r": (0.9, RANKS),
        "config_A_B": (0.5, ("vector", "constant", "none")),
        "config_C": (0.4, ("vector", "none")),
        "config_D_E": (0.4, ("vector", "none")),
        "bias": (0.2, ("all", "glora_only")),
    },
    "psoft": {
        "r": (0.9, (2, 3, 8, 16, 64)),
        "use_cayley_neumann": (0.5, (True,)),
        "num_cayley_neumann_terms": (0.3, (2, 4, 8)),
        "psoft_svd": (0.4, ("lowrank",)),
        "psoft_orth": (0.2, (False,)),
        "psoft_mag_b": (0.2, (False,)),
        "psoft_dropout": DROPOUT,
    },
    "c3a": {"block_size": (0.95, (2, 8, 16, 32, 64, 128)), "bias": (0.2, ("all", "c3a_only"))},
    "shira": {"r": (0.95, RANKS)},
    "boft": {"boft_block_size": (0.6, (2, 8, 16)), "bias": (0.2, ("all", "boft_only"))},
    "adaption_prompt": {"adapter_len": (0.8, (1, 5, 10, 30, 100)), "adapter_layers": (0.6, (2, 3))},
    "osf": {"effective_rank": (0.8, (0.9, 0.25, 1, 8, 60)), "rank_pattern": (0.3, ({"_proj": 0.75},))},
    "adamss": {
        "r": (0.8, (1, 8, 50, 500)),
        "num_subspaces": (0.6, (1, 3, 10, 32)),
        "subspace_rank": (0.4, (2, 4, 16)),
    },
    "xlora": {
        "adapters": (0.6, (["a"], ["a", "b", "c"], ["a", "b", "c", "d", "e"])),
        "r": (0.8, RANKS),
        "lora_dropout": DROPOUT,
        "enable_softmax": (0.3, (False,)),
        "enable_softmax_topk": (0.2, (True,)),
        "top_k_lora": (0.3, (1, 2)),
        "layerwise_scalings": (0.4, (True,)),
        "xlora_depth": (0.5, (2, 3, 4)),
        "xlora_size": (0.6, (16, 100, 512)),
        "xlora_dropout_p": (0.3, (0.0,)),
        "use_trainable_adapters": (0.3, (True,)),
        "scaling_pass_value": (0.2, (1.0,)),
    },
    "lily": {"r": (0.9, RANKS), "stride_A": (0.7, (2, 3)), "num_B": (0.5, (3, 4))},
    "unilora": {
        "r": (0.9, RANKS),
        "theta_d_length": (0.6, (1, 100, 4096, 100_000)),
        "unilora_dropout": DROPOUT,
        "bias": (0.2, ("all", "unilora_only")),
    },
}

#: How often each method is drawn.
METHOD_WEIGHTS: dict[MethodName, int] = {"full": 20, "lora": 27, "qlora": 25, "adapter": 10, "prefix": 9, "prompt": 9}


#: The share of requests that each newer method gets.
NEWER_METHODS: dict[MethodName, float] = {"ia3": 0.09, "ln_tuning": 0.09}

#: The methods that share the rest, and the share of requests that they get together.
FURTHER_METHODS: tuple[MethodName, ...] = tuple(
    name for name in METHODS if name not in (*METHOD_WEIGHTS, *NEWER_METHODS)
)
FURTHER_SHARE = 0.15


def random_request(
    seed: int, number: int, families: Sequence[str], method_name: MethodName | None = None
) -> dict[str, Any]:
    """Return the body of one request, of any method or of one."""
    rng = random.Random(f"{seed} {number}")
    config, model = random_model(rng, FAMILIES[_family(f"{seed} {number}", families)])
    (drawn,) = rng.choices(list(METHOD_WEIGHTS), list(METHOD_WEIGHTS.values()))
    name = method_name or _method(f"{seed} {number}", drawn)
    method = random_method(rng, f"{seed} {number}", model, name, is_alone=method_name is not None)
    training = _training(rng, name)
    cast_copies(random.Random(f"{seed} {number} copies"), method, training)
    rare = random.Random(f"{seed} {number} rare")
    rare_options(rare, model, method, training, is_alone=method_name is not None)
    return {"model": {"config": config}, "method": method, "training": training}


def random_method(
    rng: random.Random, seed: str, model: Model, name: MethodName, *, is_alone: bool = True
) -> dict[str, Any]:
    """Return a method with its options. Where all requests have the method, more of them set rare options."""
    method = {"name": name, **_set(rng, OPTIONS.get(name, {}))}
    if issubclass(METHODS[name], TargetedMethod):
        method |= _copies(rng, model) if name == "ln_tuning" else _targets(rng, model, name)
    if name == "full":
        share = 0.6 if is_alone else 0.1
        method |= unfrozen_options(random.Random(f"{seed} unfrozen"), model, share)
        chosen = active_layer_options(random.Random(f"{seed} turns"), model, share)
        method = {"name": name, **chosen} if chosen else method
    if name in ("lora", "qlora"):
        share = 0.6 if is_alone else 0.1
        method |= layer_options(random.Random(f"{seed} layers"), model, method, share)
        method |= _tokens(random.Random(f"{seed} tokens"), share / 2)
    if name == "lora":
        share = 0.5 if is_alone else 0.05
        method |= _base_in_8_bits(random.Random(f"{seed} 8 bits"), share)
        method |= _parameters(random.Random(f"{seed} parameters"), model, method, share)
        method |= block_diagonal(random.Random(f"{seed} blocks"), model, method, share / 2)
        method |= replication(random.Random(f"{seed} replication"), model, method, share / 2)
    if name == "ia3":
        method |= _feedforward(rng, method.get("target_modules"))
    return method


def _method(seed: str, drawn: MethodName) -> MethodName:
    """Replace a share of the methods by newer ones, and leave the other requests unchanged."""
    newer = (name for name, share in NEWER_METHODS.items() if random.Random(f"{seed} {name}").random() < share)
    further = random.Random(f"{seed} further methods")
    if FURTHER_METHODS and further.random() < FURTHER_SHARE:
        drawn = further.choice(FURTHER_METHODS)
    return next(newer, drawn)


def _family(seed: str, families: Sequence[str]) -> str:
    """Choose one of the families. A new family replaces a share of the requests and leaves the others unchanged."""
    return max(families, key=lambda family: random.Random(f"{seed} {family}").random())


def _set(rng: random.Random, options: Options) -> dict[str, Any]:
    return {name: rng.choice(values) for name, (share, values) in options.items() if rng.random() < share}


def _training(rng: random.Random, method: MethodName) -> dict[str, Any]:
    """Return the training object, mostly without options that are refused, so that most requests are answered."""
    training = _set(rng, TRAINING)
    if METHODS[method].facts.refuses_checkpointing and rng.random() < 0.95:
        training.pop("gradient_checkpointing", None)
    if training.get("attention") == "flash_attention_2" and rng.random() < 0.95:
        training.pop("padding", None)
        if training.get("dtype") == "float32":
            training.pop("dtype")
    return training


def _targets(rng: random.Random, model: Model, name: MethodName) -> dict[str, Any]:
    """Return the target modules of a method, and the modules that it trains in full."""
    linear = sorted({path.rpartition(".")[2] for path, module in model.paths if module.kind in ("linear", "conv1d")})
    embedding = model.embedding.name.rpartition(".")[2] if "embedding" in model.kinds else "classifier"
    some = rng.sample(linear, rng.randint(1, min(4, len(linear))))
    default = 25 if model.model_type in METHODS[name].facts.default_targets else 1
    chosen = rng.choices(["all-linear", None, some, [*some, embedding]], [35, default, 37, 3])
    saved = rng.choices([None, [some[0]], [embedding], [model.head or embedding]], [84, 3, 6, 7])
    fields = {"target_modules": chosen[0], "modules_to_save": saved[0]}
    has = METHODS[name].__dataclass_fields__  # X-LoRA trains no module in full
    return {key: value for key, value in fields.items() if value is not None and key in has}


def _copies(rng: random.Random, model: Model) -> dict[str, Any]:
    """Return LN Tuning's target modules, mostly norms, and the modules that it trains in full."""
    names = sorted({path.rpartition(".")[2] for path, _ in model.paths})
    norms = sorted({path.rpartition(".")[2] for path, module in model.paths if module.kind == "norm"}) or names
    default = 40 if model.model_type in METHODS["ln_tuning"].facts.default_targets else 1
    some = rng.sample(norms, rng.randint(1, len(norms)))
    chosen = rng.choices(["all-linear", None, some, [*some, rng.choice(names)]], [5, default, 30, 25])
    saved = rng.choices([None, [rng.choice(names)]], [80, 20])
    fields = {"target_modules": chosen[0], "modules_to_save": saved[0]}
    return {name: value for name, value in fields.items() if value is not None}


def _parameters(rng: random.Random, model: Model, method: dict[str, Any], share: float) -> dict[str, Any]:
    """Return weights of fused experts as LoRA's targets, mostly without options that PEFT refuses with them."""
    paths = ((path.rpartition("*.")[2], module) for path, module in model.paths if module.kind == "experts")
    names = sorted({f"{path}.{parameter.name}" for path, module in paths for parameter in module.parameters})
    if not names or rng.random() >= share:
        return {}
    weights = [name for name in names if not name.endswith("bias")]
    chosen = weights if rng.random() < 0.6 else [rng.choice(names)]
    if rng.random() < 0.9:
        for key in ("lora_dropout", "use_dora", "lora_bias", "init_lora_weights", "load_in_8bit"):
            method.pop(key, None)
        method.pop("prepare_model_for_kbit_training", None)
    named = {} if rng.random() < 0.5 else {"target_modules": [_attention_target(rng, model)]}
    method.pop("target_modules", None)
    return {"target_parameters": chosen, **named}


def _attention_target(rng: random.Random, model: Model) -> str:
    names = {path.rpartition(".")[2] for path, module in model.paths if module.kind == "linear" and "attn" in path}
    return rng.choice(sorted(names)) if names else "q_proj"


def _tokens(rng: random.Random, share: float) -> dict[str, Any]:
    """Trained tokens, for a share of the requests."""
    if rng.random() >= share:
        return {}
    return {"trainable_token_indices": rng.choice(([0], [1, 2, 3], list(range(17)), list(range(100, 400))))}


def _base_in_8_bits(rng: random.Random, share: float) -> dict[str, Any]:
    """Return the options of LoRA over a base in 8 bits."""
    if rng.random() >= share:
        return {}
    return {"load_in_8bit": True, **({"prepare_model_for_kbit_training": False} if rng.random() < 0.5 else {})}


def _feedforward(rng: random.Random, targets: Any) -> dict[str, Any]:
    """Return IA³'s feed-forward modules, mostly some of its targets."""
    if not isinstance(targets, list) or rng.random() < 0.2:
        return {}
    return {"feedforward_modules": rng.sample(targets, rng.randint(1, len(targets)))}


def random_model(rng: random.Random, family: Family) -> tuple[dict[str, Any], Model]:
    """Return a config and its model: a real one with fewer layers, or a random one."""
    while True:
        real = _real(family.model_type)
        if real and rng.random() < 0.45:
            config = _cut(rng, family, deepcopy(rng.choice(real)))
        else:
            config = random_config(family, f"{rng.random()}", MIDDLING)
        try:
            return config, model_from_config(config)
        except PlanError:
            continue


@cache
def _real(model_type: str) -> tuple[dict[str, Any], ...]:
    return tuple(entry.config for entry in catalogue.models() if entry.model_type == model_type)


def _cut(rng: random.Random, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """Return a real config with fewer layers, sometimes with other values of tie_word_embeddings and use_cache."""
    count = rng.choice(MIDDLING.layers) if rng.random() < 0.94 else rng.randint(8, 24)
    text = config.get("text_config", config)
    entries = (*(family.entries if text is config else ()), *(family.text or family.entries))
    layers = next((e for e in entries if isinstance(e, Field) and e.name == "num_hidden_layers"), None)
    if layers is None:  # a letter a layer
        text["hybrid_override_pattern"] = text["hybrid_override_pattern"][:count]
        before = None
    else:
        name = next(name for name in (layers.own_name, *layers.aliases) if name in text)
        before, text[name] = text[name], count
    for key, value in text.items():
        if isinstance(value, list) and len(value) == before:
            text[key] = value[:count]
    return config | _set(rng, {"tie_word_embeddings": (0.15, (True, False)), "use_cache": (0.15, (True, False))})
