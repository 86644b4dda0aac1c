"""What peers are asked: a published row's request, with the facts on its model that they would fetch from the hub."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from calculator.estimate.estimate import model_of
from calculator.estimate.request import parse_request
from calculator.inputs.training import Training
from validation.published.rules import measurements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement

#: Fields of a config that peers read.
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


def questions() -> Iterator[dict[str, Any]]:
    """One for each figure that a request says, of a peak: no peer speaks of points of a step."""
    for each in measurements():
        asked = question(each)
        if asked is not None:
            yield asked


def question(measured: Measurement) -> dict[str, Any] | None:
    """What is asked of one figure, if anything is."""
    asked = measured.run.request
    if asked is None or measured.point is not None or not measured.bytes:
        return None
    request = parse_request(asked)
    model = model_of(request.model)
    return {
        "id": measured.id,
        "statistic": measured.statistic,
        "gpu": request.device.gpu,
        "method": asked["method"],
        "training": {name: getattr(request.training, name) for name in Training.__slots__},
        "model": {
            "id": model.id or model.model_type,
            "model_type": model.model_type,
            "parameters": model.parameters,
            **{name: _plain(model.config[name]) for name in FIELDS},
        },
    }


def _plain(value: Any) -> bool | int:
    return value if isinstance(value, bool) else int(value)


def digest(asked: dict[str, Any]) -> str:
    """What tells a question from another, so that an answer to an older one is not taken for its own."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
