"""An inference answer as text, for the page and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import number, size
from app.presentation.labels import COMPONENTS, Part, parts_of
from app.presentation.verdict import VERDICTS, fit_sentence

if TYPE_CHECKING:
    from calculator.common.names import PassName
    from calculator.inference.answer import Inference

#: Labels of the passes.
PASSES: dict[PassName, str] = {
    "prefill": "prefill",
    "first_decode": "first decoding step",
    "last_decode": "last decoding step",
}

#: Labels of the costs.
COSTS = {
    "operations_per_token": "Operations per token",
    "bytes_read_per_token": "Bytes read per token",
    "kv_cache_bytes": "Bytes of the KV cache",
    "resident_bytes": "Bytes of weights",
}

#: Descriptions of components that differ from those in training.
MEANINGS = {
    "activations": "hidden states of the pass, and token ids",
    "logits_and_loss": "a score for each token of the vocabulary, at the last position",
}


def model_name(answer: Inference) -> str:
    """Return the model's id, or its family and size."""
    return answer.model.id or f"a {answer.model.model_type} of {answer.model.parameters:,} parameters"


def workload(answer: Inference) -> str:
    """Describe the prompts, the generated tokens and the tasks."""
    serving = answer.serving
    prompts = "1 prompt" if serving.batch_size == 1 else f"{number(serving.batch_size)} prompts"
    tasks = "" if serving.tasks == 1 else f", {number(serving.tasks)} tasks on the GPU"
    merged = ", merged" if serving.merged else ""
    answers = f"{number(serving.max_new_tokens)} more generated"
    return f"{prompts} of {number(serving.context_length)} tokens, {answers}{tasks}{merged}"


def sentence(answer: Inference) -> str:
    """Say whether it fits, and by how much."""
    return fit_sentence(answer.memory.required_bytes, answer.fit)


def why(answer: Inference) -> str:
    """Say when the peak is, and what the largest components are."""
    memory = answer.memory
    largest = sorted(memory.components, key=lambda component: -component.bytes)[:2]
    listed = " and ".join(f"{COMPONENTS[part.name].label.lower()} ({size(part.bytes)})" for part in largest)
    return f"The peak is in the {PASSES[memory.peak_pass]}, at “{memory.peak_operation}”: mostly {listed}."


def parts(answer: Inference) -> tuple[Part, ...]:
    """Return the parts of the required memory."""
    return parts_of(answer.memory.components, answer.memory.required_bytes)


def title(answer: Inference) -> str:
    """Return the title of the page."""
    subject = f"serving {answer.method.facts.label} of {model_name(answer)}"
    return f"{VERDICTS[answer.fit.verdict]}: {subject}" if answer.fit else f"{subject[:1].upper()}{subject[1:]}"
