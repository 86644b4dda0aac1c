"""Whole answers of `generate` replayed from traces, equal to the interpretation of every pass."""

import pytest

from calculator import catalogue
from calculator.allocator.alloc_conf import DEFAULT
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.generate_capacity import EXPANDABLE, CappedGenerateReplays
from calculator.allocator.generate_replay import GenerateCall
from calculator.allocator.loading import Loading
from calculator.allocator.out_of_memory import DeviceMemory, OutOfMemoryError
from calculator.allocator.replay import Tensors
from calculator.estimation.estimate import model_of
from calculator.estimation.request import ModelReference, parse_method
from calculator.inference.passes import state
from calculator.inference.served_method import served
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.generate_trace import GenerateTraces
from calculator.training_step.resident_state import ResidentState
from tests.calculator.inference.replays import WORKSPACE, answer_tape, drawn

CONTEXT = 400 << 20

CASES = [
    ("meta-llama/Llama-3.2-1B", {"name": "lora"}, {"context_length": 256, "max_new_tokens": 24}),
    ("google/gemma-3-1b-pt", {"name": "lora"}, {"context_length": 500, "max_new_tokens": 24}),
    ("google/gemma-3-1b-pt", {"name": "full"}, {"context_length": 500, "max_new_tokens": 16, "attention": "eager"}),
    ("openai-community/gpt2-xl", {"name": "full"}, {"context_length": 300, "max_new_tokens": 40}),
    ("Qwen/Qwen2.5-7B", {"name": "qlora"}, {"context_length": 64, "max_new_tokens": 6, "batch_size": 8}),
    ("Qwen/Qwen2.5-7B", {"name": "prefix"}, {"context_length": 64, "max_new_tokens": 6, "attention": "eager"}),
    ("Qwen/Qwen2.5-7B", {"name": "prompt"}, {"context_length": 64, "max_new_tokens": 6}),
    (
        "mistralai/Mistral-7B-v0.1",
        {"name": "adapter"},
        {"context_length": 4090, "max_new_tokens": 10, "attention": "flash_attention_2"},
    ),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", {"name": "ia3"}, {"context_length": 1000, "max_new_tokens": 40}),
]


def shallow(name, layers=7):
    """A catalogue model's config with few layers, of every kind that it has."""
    config = dict(catalogue.model(name).config)
    config["n_layer" if "n_layer" in config else "num_hidden_layers"] = layers
    return config


class Played:
    """An answer, and its oracle: the events of every pass, interpreted and played to the caching allocator."""

    def __init__(self, model, method, serving):
        model, plan = model_of(ModelReference(config=shallow(model))), served(parse_method(method), serving)
        resident = ResidentState(PreparedModel(model, plan, serving.training, Device()))
        self.loading = Loading(state(resident, plan, serving), serving.training)
        self.traces = GenerateTraces(resident.prepared)
        self.call = GenerateCall(self.loading, WORKSPACE, self.traces, serving.max_new_tokens)
        self.tape = answer_tape(resident.prepared, serving)

    def oracle(self, conf=DEFAULT, device=None):
        allocator = CachingAllocator(conf, capacity=device and device.capacity, total=device and device.total)
        sizes, (events,) = self.loading.for_device(device and device.total)
        rows = [row[4] for row in self.tape.rows]
        tensor = None
        try:
            Tensors(allocator, sizes, self.loading.names.__getitem__).play(events)
            Tensors(allocator, [WORKSPACE], lambda _: "cuBLAS workspace").play([0])
            played = [event for event in self.tape.events if rows[max(event, ~event)]]
            Tensors(allocator, rows, lambda row: self.tape.rows[row][0]).play(played)
        except OutOfMemoryError as error:
            tensor = error.tensor, error.message(device)
        return allocator.max_reserved, allocator.retries, tensor


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].split('/')[1]}-{case[1]['name']}")
def played(request):
    model, method, serving = request.param
    return Played(model, method, Serving(**serving))


def test_events_of_traced_passes_are_those_of_interpreted_ones(played):
    events, sizes, left = [], [], []
    for number in range(played.call.passes):
        program, kinds = played.traces.sized(number)
        rows = dict(zip(program.given, left, strict=True))
        for event in program.events:
            if event >= 0:
                rows[event] = len(sizes)
                sizes.append(kinds[program.kinds[event]])
            events.append(rows[event] if event >= 0 else ~rows[~event])
        left = [rows[row] for row in program.left]
    assert sizes == [row[4] for row in played.tape.rows]
    assert events == played.tape.events[: len(events)]
    assert all(event < 0 for event in played.tape.events[len(events) :])


@pytest.mark.parametrize("conf", [DEFAULT, EXPANDABLE], ids=["default", "expandable"])
def test_reserved_memory_is_that_of_interpreted_passes(played, conf):
    assert CappedGenerateReplays(played.call, conf).peak_reserved_bytes == played.oracle(conf)[0]


@pytest.mark.parametrize("conf", [DEFAULT, EXPANDABLE], ids=["default", "expandable"])
def test_course_on_a_device_is_that_of_interpreted_passes(played, conf):
    capped = CappedGenerateReplays(played.call, conf)
    peak = capped.peak_reserved_bytes
    for percent in (100, 98, 95, 80, 40):
        capacity = peak * percent // 100
        device = DeviceMemory(capacity=capacity, total=capacity + CONTEXT, context=CONTEXT)
        result = capped.within(device)
        reserved, retries, end = played.oracle(conf, device)
        found = result.out_of_memory and (result.out_of_memory.tensor, result.out_of_memory.message)
        assert (result.peak_reserved_bytes, result.retries, found) == (reserved, retries, end)


@pytest.mark.parametrize(("model", "method", "serving"), drawn(11, 6))
def test_drawn_answers_reserve_what_interpreted_passes_do(model, method, serving):
    played = Played(model, method, serving)
    assert CappedGenerateReplays(played.call).peak_reserved_bytes == played.oracle()[0]


def test_passes_are_traced_once_while_they_run_the_same_operations():
    played = Played("meta-llama/Llama-3.2-1B", {"name": "lora"}, Serving(context_length=64, max_new_tokens=4))
    assert len({id(played.traces.sized(number)[0]) for number in range(1, 4)}) == 1
