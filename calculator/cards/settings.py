"""The runs in the table of GPUs: their methods, their other settings, and their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from calculator.devices import library_workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.catalogue import ModelEntry
    from calculator.common.names import TaskName
    from calculator.devices import GPU

#: The methods of the table.
CardMethod = Literal["full", "lora", "qlora", "ln_tuning", "prompt"]
CARD_METHODS: tuple[CardMethod, ...] = get_args(CardMethod)

#: The settings of the methods. Methods that are not listed have PEFT's defaults.
_LOW_RANK: dict[str, Any] = {"r": 16, "target_modules": "all-linear"}
METHOD_SETTINGS: dict[CardMethod, dict[str, Any]] = {"lora": _LOW_RANK, "qlora": _LOW_RANK}

#: Further settings of every run than its batch and its length: those of the reference step where nothing is named.
TRAINING: dict[str, Any] = {"dtype": "bfloat16", "gradient_checkpointing": True, "optimizer": "adamw_torch"}

SETTINGS = (
    "One training step of a plain PyTorch loop on one GPU: bfloat16 weights, the adamw_torch optimizer, gradient "
    "checkpointing, SDPA attention, no padding. LoRA and QLoRA have r 16 and all-linear; other methods have the "
    "defaults of PEFT. Images and audio have the number of tokens that the model's config determines. A replay of "
    "PyTorch's caching allocator gives reserved memory. The figures leave out tensors that only CUDA kernels allocate; "
    "an estimate with “Device type” cuda counts them. A row states what differs."
)

#: The sequence lengths that are tried with a micro-batch of 1, in tokens. The first is the minimum for a row.
LENGTHS = tuple(256 << doublings for doublings in range(10))

#: The sequence length of the micro-batches that are tried. A shorter context gets the longest of LENGTHS that fits.
BATCH_LENGTH = 2048

#: The micro-batch sizes that are tried in addition to 1.
BATCHES = (2, 4, 8, 16, 32, 64)

#: The task of a model by its kind of head. Models with other heads are language models.
_TASKS: Mapping[str, TaskName] = {
    "seq2seq": "seq_2_seq_lm",
    "speech-seq2seq": "seq_2_seq_lm",
    "masked-lm": "seq_cls",
    "base": "seq_cls",
    "image-classification": "image_cls",
}


def task_of(entry: ModelEntry) -> TaskName:
    """Return the task that a model of the catalogue is trained for."""
    return _TASKS.get(entry.auto_class, "causal_lm")


def has_one_length(entry: ModelEntry) -> bool:
    """Return whether the model's config determines the length of its input: the tokens of an image or of audio."""
    return entry.auto_class in ("image-classification", "speech-seq2seq")


def group_of(card: GPU) -> str:
    """Return the group of a GPU. A run reserves the same memory on all GPUs of a group.

    These GPUs have the same attention kernels and library workspaces.
    """
    workspace = sum(part.bytes for part in library_workspace(card))
    return f"{'flash' if card.has_flash else 'no flash'}, {workspace} bytes of workspaces"


def run_body(
    entry: ModelEntry, method: CardMethod, changes: Mapping[str, Any], *, batch: int, length: int | None, gpu: str
) -> dict[str, Any]:
    """Return the request of a run. `changes` replaces settings of the table, by path.

    Without a length, it is that of the model's config.
    """
    body: dict[str, Any] = {
        "model": entry.id,
        "task": task_of(entry),
        "method": {"name": method, **METHOD_SETTINGS.get(method, {})},
        "training": {**TRAINING, "micro_batch_size": batch, **({"sequence_length": length} if length else {})},
        "device": {"gpu": gpu},
    }
    for path, value in changes.items():
        part, name = path.split(".")
        body[part][name] = value
    return body
