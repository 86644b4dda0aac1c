"""Names of methods in papers and other tools, and how a request writes those methods."""

from __future__ import annotations

from difflib import get_close_matches

from calculator.common.errors import shown
from calculator.methods import METHODS
from calculator.methods.not_modeled import NOT_MODELED

#: By the name without separators: the JSON that a request has instead, a method or a setting of the training.
_WRITTEN: dict[str, str] = {
    "adalomo": '{"name": "full"} with "training": {"optimizer": "adalomo"}',
    "adapters": '{"name": "adapter"}',
    "apollo": '{"name": "full"} with "training": {"optimizer": "apollo_adamw", "optim_target_modules": "all-linear"}',
    "badam": '{"name": "full", "use_badam": true}',
    "bone": '{"name": "miss"}',
    "corda": '{"name": "lora", "init_lora_weights": "corda", "target_modules": ["q_proj", "v_proj"]}',
    "dora": '{"name": "lora", "use_dora": true}',
    "eva": '{"name": "lora", "init_lora_weights": "eva"}',
    "freeze": '{"name": "full", "unfrozen_parameters": ["model.layers.27."]}',
    "fft": '{"name": "full"}',
    "fullfinetuning": '{"name": "full"}',
    "galore": '{"name": "full"} with "training": {"optimizer": "galore_adamw", "optim_target_modules": "all-linear"}',
    "houlsby": '{"name": "adapter", "placement": "houlsby"}',
    "layernormtuning": '{"name": "ln_tuning"}',
    "loftq": '{"name": "lora", "init_lora_weights": "loftq"}',
    "lisa": '{"name": "full", "lisa_n_layers": 2}',
    "lomo": '{"name": "full"} with "training": {"optimizer": "lomo"}',
    "lora+": '{"name": "lora"} with "training": {"loraplus_lr_ratio": 16}',
    "lorafa": '{"name": "lora"} with "training": {"optimizer": "lorafa"}',
    "loraplus": '{"name": "lora"} with "training": {"loraplus_lr_ratio": 16}',
    "mica": '{"name": "lora", "init_lora_weights": "mica"}',
    "muon": '{"name": "full"} with "training": {"optimizer": "muon"}',
    "olora": '{"name": "lora", "init_lora_weights": "olora"}',
    "pfeiffer": '{"name": "adapter", "placement": "pfeiffer"}',
    "pissa": '{"name": "lora", "init_lora_weights": "pissa"}',
    "prefixtuning": '{"name": "prefix"}',
    "promptencoder": '{"name": "p_tuning"}',
    "prompttuning": '{"name": "prompt"}',
    "qdora": '{"name": "qlora", "use_dora": true}',
    "rslora": '{"name": "lora", "use_rslora": true}',
    "spectrum": '{"name": "full", "unfrozen_parameters": ["model.layers.27.mlp.down_proj"]}',
    "softprompt": '{"name": "prompt"}',
}


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


#: The reasons for which methods are not modeled, by the name without separators.
_REASONS = {_key(name): why for name, why in NOT_MODELED.items()}
_OWN = {_key(name): name for name in METHODS}


def must_be_a_method(name: object) -> str:
    """Return why a name is not a method's, with the JSON of the method that it probably means."""
    names = ", ".join(METHODS)
    if not isinstance(name, str):
        return f"must be one of {names}"
    key = _key(name)
    if key in _REASONS:
        return f"{shown(name)} is not modeled: {_REASONS[key]}; methods are {names}"
    written = _WRITTEN.get(key)
    if written is None:
        close = get_close_matches(key, (*_OWN, *_WRITTEN), n=1, cutoff=0.8)
        if not close:
            return f"must be one of {names}"
        written = _WRITTEN.get(close[0]) or f'{{"name": "{_OWN[close[0]]}"}}'
    return f"{shown(name)} is not a method; did you mean {written}? Methods are {names}"
