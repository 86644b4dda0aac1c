"""Reasons that come from what serving takes, by the figures of POST /api/v1/inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.devices import Verdict
from calculator.estimate.estimate import resident_state
from calculator.inference.costs import Costs
from calculator.inference.inference import inference
from calculator.inference.request import InferenceRequest
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.layers.cache import Cache
from calculator.methods.prepared_model import PreparedModel
from calculator.plan.reasons.reason import Judged, Reason, millions, percent, size, speaks_against, speaks_for
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inference.answer import Inference


def beside(judged: Judged) -> Reason:
    """What stays beside the weights, and what it costs."""
    facts, added = judged.method.facts, millions(judged.answer.parameters.added)
    products, share = _products(judged), percent(operations(judged))
    if facts.mergeable:
        sentence = (
            f"Unmerged, its {added} parameters stay beside the weights. At inference: {products:,} small products more"
            f" a token, whose launches count at batch 1, and {share} more operations."
        )
        return speaks_against("unmerged", sentence)
    more = f"{products:,} small products and {share} more operations" if products else f"{share} more operations"
    sentence = f"Its {added} parameters can't be merged. At inference: {facts.inference_overhead}; {more} a token."
    return speaks_against("stays_beside", sentence)


def mixed(judged: Judged) -> Reason:
    """Requests for several tasks in one batch."""
    tasks, share = judged.needs.tasks, percent(operations(judged))
    sentence = f"Unmerged, requests for {tasks:,} tasks can share a batch, at {share} more operations a token."
    return speaks_for("mixed_batch", sentence)


def merged(judged: Judged) -> Iterator[Reason]:
    """Where the merged model in 16 bits does not fit the card: what serving it takes, and what it takes in 4 bits."""
    whole = _merged(judged, "dtype")
    if whole.fit is None or whole.fit.verdict is Verdict.FITS:
        return
    packed = _merged(judged, "nf4")
    assert packed.fit is not None
    of = f"of the {size(whole.fit.usable_bytes)} usable"
    request = f"one request of {whole.serving.context_length:,} tokens"
    takes = f"The merged model in 16 bits takes {size(whole.memory.required_bytes)} to serve {request}, {of}"
    yield speaks_against("served_merged", f"{takes}: this card can't serve it.")
    takes = f"Stored in 4 bits (nf4), the merged model takes {size(packed.memory.required_bytes)} {of} to serve"
    if packed.fit.verdict is Verdict.FITS:
        yield speaks_for("served_merged", f"{takes} {request}, its merged weights rounded once more.")
    else:
        yield speaks_against("served_merged", f"{takes} {request}: not even so does this card serve it.")


def operations(judged: Judged) -> float:
    """What is added to a token's operations, as a share of the base's."""
    serving = _serving(judged, max_new_tokens=1)
    evaluator, method = judged.evaluator, served(judged.method, serving)
    resident = ResidentState(PreparedModel(evaluator.model, method, serving.training, evaluator.device))
    # No operation depends on what the cache holds.
    return Costs(resident, serving, Cache(windowed=False)).operations().share


def _products(judged: Judged) -> int:
    """The products beside the weights that each token takes."""
    resident = resident_state(judged.evaluator.request(judged.candidate))
    added = (tensor for tensor in resident.tensors if not tensor.base)
    return sum(tensor.count for tensor in added if judged.method.is_matmul(tensor))


def _merged(judged: Judged, storage: str) -> Inference:
    """What it takes to serve the merged model in a storage."""
    request = InferenceRequest(
        model=judged.evaluator.reference,
        method=judged.method,
        serving=_serving(judged, merged=True, storage=storage),
        device=judged.evaluator.device,
        length_given=False,
    )
    return inference(request)


def _serving(judged: Judged, **settings: Any) -> Serving:
    """One request as long as the sequences that are trained on."""
    training = judged.evaluator.request(judged.candidate).training
    return Serving(context_length=training.sequence_length, dtype=training.dtype, **settings)
