"""Reasons that come from the cost of serving, with the figures of POST /api/v1/inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.devices import Verdict
from calculator.estimation.estimate import resident_state
from calculator.inference.costs import Costs
from calculator.inference.inference import inference
from calculator.inference.request import InferenceRequest
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.layers.cache import Cache
from calculator.methods.prepared_model import PreparedModel
from calculator.planning.reasons.reason import Evaluation, Reason, millions, percent, size, speaks_against, speaks_for
from calculator.training_step.resident_state import ResidentState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inference.answer import Inference
    from calculator.resident.tensor import ResidentTensor


def unmerged(evaluation: Evaluation) -> Reason:
    """Return a reason on what stays unmerged, and on its cost."""
    facts, added = evaluation.method.facts, millions(evaluation.answer.parameters.added)
    products, share = _products(evaluation), percent(added_operations(evaluation))
    if evaluation.method.facts.trains_copies:
        return speaks_against("unmerged", f"Unmerged, its {added} parameters replace the base's at no more operations.")
    if facts.mergeable:
        more = f"{products:,} more small products" if products else f"{_elementwise(evaluation):,} elementwise products"
        sentence = (
            f"Unmerged, its {added} parameters stay separate. At inference: {more} per token,"
            f" whose launches count at batch 1, and {share} more operations."
        )
        return speaks_against("unmerged", sentence)
    more = f"{products:,} small products and {share} more operations" if products else f"{share} more operations"
    sentence = f"Its {added} parameters can't be merged. At inference: {facts.inference_overhead}; {more} per token."
    return speaks_against("stays_beside", sentence)


def mixed_batch(evaluation: Evaluation) -> Reason:
    """Return reasons from requests for several tasks in one batch."""
    tasks, share = evaluation.needs.tasks, percent(added_operations(evaluation))
    sentence = f"Unmerged, requests for {tasks:,} tasks can share a batch, at {share} more operations per token."
    return speaks_for("mixed_batch", sentence)


def merged_serving(evaluation: Evaluation) -> Iterator[Reason]:
    """Yield the memory of serving the merged model in 16 and in 4 bits, if it does not fit the GPU in 16 bits."""
    whole = _merged(evaluation, "dtype")
    if whole.fit is None or whole.fit.verdict is Verdict.FITS:
        return
    packed = _merged(evaluation, "nf4")
    assert packed.fit is not None
    usable_text = f"of the {size(whole.fit.usable_bytes)} usable"
    request = f"one request of {whole.serving.context_length:,} tokens"
    needs = f"The merged model in 16 bits needs {size(whole.memory.required_bytes)} to serve {request}, {usable_text}"
    yield speaks_against("served_merged", f"{needs}: this GPU can't serve it.")
    needs = (
        f"Stored in 4 bits (nf4), the merged model needs {size(packed.memory.required_bytes)} {usable_text} to serve"
    )
    if packed.fit.verdict is Verdict.FITS:
        yield speaks_for("served_merged", f"{needs} {request}, with its weights rounded again.")
    else:
        yield speaks_against("served_merged", f"{needs} {request}: even so, this GPU can't serve it.")


def added_operations(evaluation: Evaluation) -> float:
    """Return the operations that the method adds to a token, as a share of the base's."""
    serving = _serving(evaluation, max_new_tokens=1)
    evaluator, method = evaluation.evaluator, served(evaluation.method, serving)
    resident = ResidentState(PreparedModel(evaluator.model, method, serving.training, evaluator.device.on_one_gpu))
    # Operations do not depend on the contents of the cache.
    return Costs(resident, serving, Cache(windowed=False)).operations().share


def _products(evaluation: Evaluation) -> int:
    """Return the matrix products that the method adds to a token."""
    return sum(tensor.count for tensor in _added(evaluation) if evaluation.method.is_matmul(tensor))


def _elementwise(evaluation: Evaluation) -> int:
    """Return the elementwise products that the method adds to a token, if it adds no matrix products."""
    return sum(tensor.count for tensor in _added(evaluation))


def _added(evaluation: Evaluation) -> list[ResidentTensor]:
    resident = resident_state(evaluation.evaluator.request(evaluation.candidate))
    return [tensor for tensor in resident.tensors if not tensor.base]


def _merged(evaluation: Evaluation, storage: str) -> Inference:
    """Return the answer for serving the merged model in a storage. Its memory does not depend on the method."""
    serving, merged = _serving(evaluation, merged=True, storage=storage), evaluation.evaluator.merged
    if serving not in merged:
        request = InferenceRequest(
            model=evaluation.evaluator.reference,
            method=evaluation.method,
            serving=serving,
            device=evaluation.evaluator.device,
            length_given=False,
        )
        merged[serving] = inference(request)
    return merged[serving]


def _serving(evaluation: Evaluation, **settings: Any) -> Serving:
    """Return the settings for serving one request that is as long as a training sequence."""
    training = evaluation.evaluator.request(evaluation.candidate).training
    return Serving(context_length=training.sequence_length, dtype=training.dtype, **settings)
