"""Whole answers replayed through the caching allocator, compared with the rule for reserved memory.

`python -m tests.calculator.inference.replays SEED COUNT` prints a line an answer, and the extremes.
"""

import random
import sys
from statistics import median
from unittest import mock

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import Loading
from calculator.allocator.replay import Tensors
from calculator.allocator.reserved_rule import inference_bytes
from calculator.architecture.dimension import Dim
from calculator.devices import library_workspace
from calculator.engine import operations as ops
from calculator.engine.tape import Tape
from calculator.estimation.estimate import model_of
from calculator.estimation.request import ModelReference, parse_method
from calculator.inference.passes import peaks, state
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.layers import context as running
from calculator.layers import masks
from calculator.layers.cache import Cache
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step import generation as passes
from calculator.training_step.resident_state import ResidentState

MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.1",
    "Qwen/Qwen2.5-7B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "google/gemma-3-1b-pt",
    "openai-community/gpt2-xl",
)
WORKSPACE = library_workspace(None)[0].bytes


def drawn(seed, count):
    """Models, methods and ways to serve them."""
    chance = random.Random(seed)
    return [_drawn(chance) for _ in range(count)]


def _drawn(chance):
    model = chance.choice(MODELS)
    method = {"name": chance.choice(["full", "lora", "qlora", "adapter"])}
    if "lora" in method["name"]:
        method["target_modules"] = chance.choice(["all-linear", None])
    lengths = [64, 256, 700] if "gpt2" in model else [64, 256, 1000, 2048, 4096]
    return (
        model,
        method,
        Serving(
            batch_size=chance.choice([1, 1, 2, 4, 8, 16]),
            context_length=chance.choice(lengths),
            max_new_tokens=chance.choice([2, 16, 64, 128]),
            tasks=chance.choice([1, 1, 4]),
        ),
    )


def compared_with_a_replay(model, method, serving):
    """The live peak, the reserved memory by replay, and that by the rule, in bytes."""
    model, plan = model_of(ModelReference(id=model)), served(parse_method(method), serving)
    resident = ResidentState(PreparedModel(model, plan, serving.training, Device()))
    pass_peaks = peaks(resident, plan, serving)
    live = max(peak.bytes for peak in pass_peaks) + WORKSPACE
    rule = inference_bytes(pass_peaks[0].resident_tensors, [peak.ran.recording for peak in pass_peaks], WORKSPACE)
    return live, _reserved(resident, plan, serving), rule


def _reserved(resident, plan, serving):
    """Load the model, then prefill and decode, every event played to one allocator."""
    allocator = CachingAllocator()
    loading = Loading(state(resident, plan, serving), serving.training)
    Tensors(allocator, loading.sizes).play(loading.events)
    allocator.pool(WORKSPACE).allocate(WORKSPACE)
    tape = answer_tape(resident.prepared, serving)
    sizes = [row[4] for row in tape.rows]
    Tensors(allocator, sizes).play([event for event in tape.events if sizes[max(event, ~event)]])
    return allocator.max_reserved


def answer_tape(prepared, serving):
    """The tape of all passes, one after the other over the same cache."""
    tape = Tape(trains=False)
    with mock.patch.object(running, "Tape", return_value=tape):
        generation = passes.Generation(prepared)
        context = generation._context()
        given = passes.LoopTensors(ids=tape.new((context.batch, context.length), "int64", "ids"))
        context.cache = Cache(windowed=True, component="kv_cache")
        context.method.before_forward(context)
        _step(context, [given.ids], given)
        seen, cache = int(context.past + context.length), context.cache
        del context
        for _ in range(serving.max_new_tokens - 1):
            cache, seen = _decoded(generation, cache, seen, given), seen + 1
    return tape


def _decoded(generation, cache, seen, given):
    context = generation._context()
    context.past, context.length = Dim(seen, "past"), passes.ONE
    context.cache = Cache(windowed=cache.windowed, given=cache.windows, component="kv_cache")
    kept, cache.kept = cache.kept, []
    for layer in context.layers:
        tokens = masks.cached_tokens(context, layer.kind.attention)
        context.cache.before.append([ops.narrow(t, (*t.shape[:2], tokens, t.shape[3])) for t in kept.pop(0)])
    _step(context, [context.tape.new((context.batch, 1), "int64", "input_ids")], given)
    return context.cache


def _step(context, ids, given):
    outputs = passes._forward(context, ids.pop())
    context.forward_locals = []
    passes._choose(context, given)
    del outputs


def _table(seed, count):
    ratios = []
    for model, method, serving in drawn(seed, count):
        live, replay, rule = compared_with_a_replay(model, method, serving)
        ratios.append(rule / replay)
        shape = f"{serving.batch_size} × {serving.context_length} + {serving.max_new_tokens}"
        found = f"replay / live {replay / live:.3f} rule / replay {ratios[-1]:.3f}"
        yield f"{model:36} {method['name']:8} {shape:18} {found}"
    covered = sum(ratio >= 1 for ratio in ratios) / len(ratios)
    yield f"not below {covered:.0%}, lowest {min(ratios):.3f}, median {median(ratios):.3f}, highest {max(ratios):.3f}"


if __name__ == "__main__":
    for line in _table(int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
