"""An untrusted `config.json`, checked before transformers reads it: nothing in it names code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.compatibility import SWITCHES
from calculator.families.family import TASK_MODELS
from validation.reference.heads import MAPPINGS, head_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import TaskName

#: Fields that name code of a repository, at any depth.
CODE = ("auto_map", "trust_remote_code", "custom_pipelines")

#: Fields without effect on what a request describes: it has the dtype, the kernels and the quantization.
REPLACED = ("attn_implementation", "dtype", "experts_implementation", "quantization_config", "torch_dtype")

#: Numbers that JSON does not have. transformers writes them as objects: configuration_utils.py, _encode_special_floats.
SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")


def checked(config: dict[str, Any], task: TaskName = "causal_lm") -> dict[str, Any]:
    """Return the fields of a config that its class may read.

    Raises:
        PlanError: if transformers has no language model of its type, or it names code outside transformers.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING_NAMES:
        message = f"transformers {transformers.__version__} has no such model type"
        raise refusal("model.config.model_type", message, model_type)
    if head_of(model_type, task) is None:
        listed = TASK_MODELS.get(task, ", ".join(MAPPINGS))
        message = f"transformers has no class of this type for the task {task}, whose loss a step needs: {listed}"
        raise refusal("model.config.model_type", message, model_type)
    problems = [*_code(config, "model.config"), *_switches(config)]
    if problems:
        raise PlanError(*problems)
    kept: dict[str, Any] = _public_value(config)
    return kept


def _code(value: Any, path: str) -> Iterator[Problem]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _code(item, f"{path}.{number}")
    if isinstance(value, dict):
        for key, item in value.items():
            if key in CODE and item:
                message = "names code outside transformers, which is never run: leave it out"
                yield Problem(loc=f"{path}.{key}", msg=message, input=item)
            yield from _code(item, f"{path}.{key}")


def _switches(config: dict[str, Any]) -> Iterator[Problem]:
    nested = config.get("text_config")
    for place, values in (("", config), ("text_config.", nested if isinstance(nested, dict) else {})):
        for name, (value, why) in SWITCHES.items():
            if values.get(name) is value:
                yield Problem(loc=f"model.config.{place}{name}", msg=f"{why}: leave it out", input=value)


def _public_value(value: Any) -> Any:
    """Return a value without private fields and those that the request replaces, and with infinities as numbers."""
    if isinstance(value, dict) and value.get("__float__") in SPECIAL_FLOATS:
        return float(value["__float__"])
    if isinstance(value, list):
        return [_public_value(item) for item in value]
    if isinstance(value, dict):
        return {k: _public_value(v) for k, v in value.items() if not k.startswith("_") and k not in REPLACED}
    return value
