"""PEFT's method comparison: Llama-3.2-3B on an L40S, `max_memory_reserved` of a whole run of 5,000 steps.

The request has the lengths of the samples, and the cache that is emptied every ten steps. The script also keeps
`outputs` alive until it assigns the next step's, and sorts batches by length within buckets: the protocol `buckets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.inputs.settings import declared
from calculator.methods import METHODS
from validation.published.buckets import LONGEST, STEPS_BETWEEN, UNIT, histogram
from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Row, Source

#: LoRA variants that a request has no setting for, by the field of peft_config.
UNSUPPORTED = {
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "trainable_token_indices": "trainable tokens",
}

#: Explanations of errors, by method.
REMARKS = {
    "PREFIX_TUNING": (
        "the maximum is probably in the run's evaluation, which generates for 50 questions at once with the prefix in"
        " every cache; the replay does not include it"
    ),
    "PROMPT_TUNING": "the batches' lengths are assumed, and with 200 virtual tokens more of each batch is kept",
}

UNKNOWN = (
    f"the longest sample, assumed to have {LONGEST} tokens in every row",
    f"the other samples' lengths, assumed to be log-normal with the published mean, in multiples of {UNIT}",
)


def measurements(source: Source) -> Iterator[Measurement]:
    """The most bytes reserved, one figure per row."""
    for row in source.rows:
        size = row["measured"]["accelerator_memory_max"]
        remark = REMARKS.get(row["method"], "")
        yield measurement(source, row, "max_memory_reserved", size, _run(row), setting=row["experiment"], remark=remark)


def _run(row: Row) -> Run:
    method = _method(row)
    if isinstance(method, str):
        return Run(differs=(method,))
    training = {
        "micro_batch_size": row["batch_size"],
        "sequence_length": row["max_seq_length"],
        "sequence_lengths": [[*pair] for pair in histogram()],
        "torch_empty_cache_steps": STEPS_BETWEEN,
        "empty_cache_at": "after_step",
        "dtype": row["dtype"],
        "adapter_dtype": "float32" if row["autocast_adapter_dtype"] else "model",
        "gradient_checkpointing": row["gradient_checkpointing"],
    }
    request = {"model": row["model"], "method": method, "training": training, "device": {"gpu": "l40s"}}
    return Run(request=request, protocol="buckets", unknown=UNKNOWN)


def _method(row: Row) -> dict[str, Any] | str:
    """The request's method, or the reason why it has none."""
    config = row["peft_config"]
    if row["method"] == "FULL":
        return {"name": "full"}
    if row["method"] == "LORA":
        return _lora(row)
    name = next((name for name, cls in METHODS.items() if cls.facts.peft_type == row["method"]), None)
    if name is None:
        return "a method that the calculator does not have"
    cls: type = METHODS[name]
    names = (setting.name for setting in declared(cls) if setting.name in config)
    return {"name": name, **{each: _sorted(config[each]) for each in names}}


def _sorted(value: Any) -> Any:
    """A list of names in order: PEFT writes sets."""
    return sorted(value) if isinstance(value, list) else value


def _lora(row: Row) -> dict[str, Any] | str:
    config = row["peft_config"]
    variants = [variant for name, variant in UNSUPPORTED.items() if config.get(name)]
    if variants:
        return f"{', '.join(variants)}, which a LoRA request has no setting for"
    if config.get("init_lora_weights") not in (True, None) or row["optimizer"] != "AdamW":
        return "only B is trained (LoRA-FA, MiCA), which a LoRA request has no setting for"
    names = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora")
    settings = {name: config[name] for name in names if name in config}
    return {"name": "lora", **settings, "target_modules": sorted(config["target_modules"])}
