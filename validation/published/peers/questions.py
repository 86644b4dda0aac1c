"""Questions to the peers: a published row's request, with the model's fields that peers would fetch from the Hub."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from validation.published.rules import measurements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement

#: Config fields that peers read.
FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)

#: Training settings that peers are given.
TRAINING = (
    "micro_batch_size",
    "sequence_length",
    "gradient_accumulation_steps",
    "dtype",
    "autocast",
    "adapter_dtype",
    "gradient_checkpointing",
    "attention",
    "padding",
    "optimizer",
    "max_grad_norm",
)

#: Protocols of which no peer knows anything: kernels in transformers' place, passes that train nothing, and a step
#: without an optimizer.
UNKNOWN = ("fast_kernels", "fast_kernels_and_fused_head", "logits", "mean_of_logits", "output_of_pass")


def questions() -> Iterator[dict[str, Any]]:
    """Yield a question for each peak that a request expresses; no peer estimates points inside a step."""
    for measurement in measurements():
        answerable = question(measurement)
        if answerable is not None:
            yield answerable


def question(measured: Measurement) -> dict[str, Any] | None:
    """Return the question for one figure; None if peers cannot answer it."""
    body = measured.run.request
    if body is None or measured.point is not None or not measured.bytes or measured.run.protocol in UNKNOWN:
        return None
    request = parse_request(body)
    if request.device.sharding != "none":
        return None
    model = model_of(request.model)
    training = {name: getattr(request.training, name) for name in TRAINING}
    lengths = [length for length, _ in request.training.sequence_lengths or ()]
    if lengths:
        # Peers know no histograms: their question is about the longest sample, and shorter ones next to it are padded.
        training["sequence_length"] = min(training["sequence_length"], max(lengths))
        training["padding"] = training["padding"] or training["micro_batch_size"] > 1 < len(lengths)
    return {
        "id": measured.id,
        "statistic": measured.statistic,
        "gpu": request.device.gpu,
        "method": body["method"],
        "training": training,
        "model": {
            "id": model.id or model.model_type,
            "model_type": model.model_type,
            "parameters": model.parameters,
            **{name: _plain(model.config[name]) for name in FIELDS},
        },
    }


def _plain(value: Any) -> bool | int:
    return value if isinstance(value, bool) else int(value)


def digest(question: dict[str, Any]) -> str:
    """Return a hash of a question, which tells whether a committed answer is to the current question."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
