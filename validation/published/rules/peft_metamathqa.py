"""PEFT's method comparison: Llama-3.2-3B on an L40S, runs of 5,000 steps from June 2025 on.

Each row has two figures: `max_memory_reserved` of the whole run, and the mean of `memory_allocated` after each step.

The request has the lengths of the samples, and how often the cache is emptied: every ten steps, and every step before
13 November 2025. The script also keeps `outputs` alive until it assigns the next step's, and sorts batches by length
within buckets: the protocol `buckets`. Since 3 December 2025 it computes a loss before the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.inputs.settings import declared
from calculator.methods import METHODS
from validation.published.buckets import LONGEST, STEPS_BETWEEN, UNIT, histogram
from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Protocol
    from validation.published.source import Row, Source

#: LoRA variants that a request has no setting for, by the field of peft_config.
UNSUPPORTED = {
    "alora_invocation_tokens": "activated LoRA",
}

#: Methods that PEFT renamed: MiSS runs the step of Bone. Source: peft 0.18, tuners/bone/layer.py, BoneLinear.forward.
OLDER_NAMES = {"BONE": "MISS"}

#: Explanations of errors, by method.
REMARKS = {
    "FULL": (
        "the order of the lengths, of which the prediction takes the worst of three draws: in the first step it decides"
        " where the optimizer's states are, among what the loss before it left cached; eight draws of the same lengths"
        " give from -5.1 % to -0.2 % of the run of July 2026. In June 2025 there is no such loss, and they give from"
        " +0.8 % to +4.0 %; why all are high is not known"
    ),
    "P_TUNING": (
        "the length of the batch before the longest, of which the prediction takes the worst of three draws: above 108"
        " tokens, to which 20 virtual ones are added, each layer's cached keys are above 1 MiB, so that each keeps a"
        " segment of its own while the longest batch runs. The draw with 104 tokens gives +0.1 % of the run of July"
        " 2026, seven with 112 or 120 give from +1.0 % to +3.2 %"
    ),
    "PREFIX_TUNING": (
        "with 200 virtual tokens, the maximum is in an evaluation, which makes the prefix for 50 questions at once: 2.3"
        " GB in float32 and 1.1 GB in bfloat16, for which what ten steps left cached has no block. So the longest of"
        " the ten batches before evaluations decides: it is not published; in eight draws of the same lengths it has"
        " from 440 to 616 tokens, and they give from -8.2 % to +0.5 % of the run of July 2026"
    ),
    "PROMPT_TUNING": "the batches' lengths are assumed, and with 200 virtual tokens more of each batch is kept",
    "WAVEFT": (
        "not known: segments of 300 to 350 MB too many, in every one of eight orders of the lengths. The workspaces of"
        " cuDNN, which computes the transforms between the other tensors, are not replayed: with twice a transform's"
        " input, or 256 MiB, +0.8 % to +1.0 % are left"
    ),
}

#: Explanations of errors of the mean after a step, by method.
LENGTHS = (
    "the assumed lengths have 867 tokens in a padded batch, and the allocator counts whole blocks; about 15 MB are"
    " missing in every run"
)
AFTER_STEP = {
    "ADALORA": f"{LENGTHS}; the last 500 of 5,000 steps keep no importance, which the mean has and the prediction not",
    "RANDLORA": f"{LENGTHS}; another 25 MB are not explained",
}

#: Methods that need more of transformers than its modules, and the first release whose virtual tokens are known.
VIRTUAL_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
KNOWN_VIRTUAL_TOKENS = (4, 57)

#: The releases of PyTorch that a request can state.
TORCH = ("2.13", "2.14")

#: When the script began to compute a loss before the first step, and when it began to disable adapters for that.
#: Source: huggingface/peft, commits a0e51a19b and d787f51bb.
LOSS_BEFORE = "2025-12-03"
LOSS_OF_BASE = "2026-07-14T13:22:56"

#: From this release of PEFT on, the script disables adapters once before the steps.
DISABLES_ADAPTERS = (0, 19)

#: The optimizer of PEFT's that freezes A, as a row names it.
LORAFA = "lora-fa"

UNKNOWN = (
    f"the longest sample, assumed to have {LONGEST} tokens in every row",
    f"the other samples' lengths, assumed to be log-normal with the published mean, in multiples of {UNIT}",
)


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the most bytes reserved, and the mean of the bytes allocated after a step."""
    for row in source.rows:
        run, setting = _run(row), row["experiment"]
        size = row["measured"]["accelerator_memory_max"]
        remark = REMARKS.get(row["method"], "")
        yield measurement(source, row, "max_memory_reserved", size, run, setting=setting, remark=remark)
        size, remark = row["mem_allocated_after_step_avg"], AFTER_STEP.get(row["method"], LENGTHS)
        yield measurement(
            source, row, "memory_allocated", size, run, setting=setting, point="after_step", remark=remark
        )


def _run(row: Row) -> Run:
    method = _method(row)
    if isinstance(method, str):
        return Run(differs=(method,))
    training = {
        "micro_batch_size": row["batch_size"],
        "sequence_length": row["max_seq_length"],
        "sequence_lengths": [[*pair] for pair in histogram()],
        "torch_empty_cache_steps": row.get("empty_cache_steps", STEPS_BETWEEN),
        "empty_cache_at": "after_step",
        "dtype": row["dtype"],
        "adapter_dtype": "float32" if row["autocast_adapter_dtype"] else "model",
        "gradient_checkpointing": row["gradient_checkpointing"],
    }
    if row["optimizer"] == LORAFA:
        training["optimizer"] = "lorafa"
    request = {"model": row["model"], "method": method, "training": training, "device": {"gpu": "l40s"}}
    differs = tuple(_differs(row))
    if _release(row, "transformers") < (5, 0) and not _passes_tokens_otherwise(row):
        request["stack"] = {"transformers": row["versions"]["transformers"]}
    return Run(request=request, protocol=_protocol(row), differs=differs, unknown=(*UNKNOWN, *_torch(row)))


def _differs(row: Row) -> Iterator[str]:
    release = f"transformers {row['versions']['transformers']}"
    if row["optimizer"] == LORAFA and _release(row, "peft") >= DISABLES_ADAPTERS:
        yield (
            "disable_adapter before the steps, for a loss of the base model: PEFT makes A require a gradient again when"
            " it ends, so that the run keeps A's inputs and gradients"
        )
    if row["method"] == "BOFT" and _release(row, "peft") < (0, 19):
        yield "BOFT of peft 0.18, which rotates the weight where 0.21 rotates the input"
    if row["method"] == "OSF" and _release(row, "peft") < (0, 21):
        yield "OSF of peft 0.19, which keeps every singular vector and multiplies them to a weight"
    if _passes_tokens_otherwise(row):
        yield f"virtual tokens in {release}: the request has 5.24"


def _protocol(row: Row) -> Protocol:
    """Return the script of a row's date."""
    if row["date"] < LOSS_BEFORE:
        return "buckets"
    return "buckets_after_loss" if row["date"] < LOSS_OF_BASE else "buckets_after_loss_of_base"


def _passes_tokens_otherwise(row: Row) -> bool:
    """Return whether a release passes virtual tokens in a way that is not known."""
    return row["method"] in VIRTUAL_TOKENS and _release(row, "transformers") < KNOWN_VIRTUAL_TOKENS


def _torch(row: Row) -> Iterator[str]:
    torch = row["versions"]["torch"].partition("+")[0]
    if not torch.startswith(TORCH):
        yield f"PyTorch {torch}, assumed to allocate as 2.14 does"


def _release(row: Row, package: str) -> tuple[int, int]:
    major, minor, *_ = row["versions"][package].split(".")
    return int(major), int(minor)


def _method(row: Row) -> dict[str, Any] | str:
    """Return the request's method, or the reason why it has none."""
    config = row["peft_config"]
    if row["method"] == "FULL":
        return {"name": "full"}
    if row["method"] == "LORA":
        return _lora(row)
    kind = OLDER_NAMES.get(row["method"], row["method"])
    name = next((name for name, cls in METHODS.items() if cls.facts.peft_type == kind), None)
    if name is None:
        return "a method that the calculator does not have"
    if config.get("decomposition_method") == "qr":
        return "a QR decomposition, whose memory on a GPU the calculator does not have"
    cls: type = METHODS[name]
    names = (setting.name for setting in declared(cls) if setting.name in config)
    return {"name": name, **{key: _sorted(config[key]) for key in names}}


def _sorted(value: Any) -> Any:
    """Return a list of names in order: PEFT writes sets."""
    return sorted(value) if isinstance(value, list) else value


def _lora(row: Row) -> dict[str, Any] | str:
    config = row["peft_config"]
    variants = [variant for name, variant in UNSUPPORTED.items() if config.get(name)]
    if variants:
        return f"{', '.join(variants)}, which a LoRA request has no setting for"
    names = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "trainable_token_indices", "use_bdlora")
    settings = {name: config[name] for name in names if name in config}
    if config.get("init_lora_weights") not in (True, None):
        settings["init_lora_weights"] = config["init_lora_weights"]
    return {"name": "lora", **settings, "target_modules": sorted(config["target_modules"])}
