import pytest
import torch
from torch import nn

from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.module_tracker import ModuleTracker

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

T, H = 64, 256
FLOATS = T * H * 4


def tracked(model, run):
    """The ledger of `run`, which is called with the tracker."""
    ledger = Ledger()
    tracker = MemoryTracker(ledger, ModuleTracker(model, ""), None, KnownValues(1))
    for name, parameter in model.named_parameters():
        tracker.track_external(name, parameter, "base_weights")
    with tracker.tracking():
        run(tracker)
    return ledger


def step(model):
    def run(tracker):
        x = torch.ones(T, H, device="meta")
        tracker.enter("forward")
        loss = model(x).sum()
        tracker.enter("backward")
        loss.backward()

    return run


def test_forward_saves_only_what_backward_needs():
    model = nn.Sequential(nn.Linear(H, H, bias=False, device="meta"), nn.Tanh(), nn.Tanh())
    ledger = tracked(model, step(model))
    kept = list(ledger.alive_after(next(event for event, phase in ledger.phase_starts if phase == "backward") - 1))
    assert [(s.module, s.op, s.nbytes) for s in kept if s.moment == "forward"] == [
        ("", "aten.ones", FLOATS),
        ("1", "aten.tanh", FLOATS),
        ("2", "aten.tanh", FLOATS),
        ("", "aten.sum", 4),
    ]


def test_a_step_frees_everything_but_gradients_inputs_and_loss():
    model = nn.Sequential(nn.Linear(H, H, device="meta"), nn.GELU())
    ledger = tracked(model, step(model))
    alive = list(ledger.alive_after(len(ledger.events)))
    assert sorted(s.nbytes for s in alive if s.moment == "backward") == [H * 4, H * H * 4]
    assert ledger.live_bytes == sum(s.bytes for s in alive)


def test_a_storage_of_the_backward_pass_has_its_forward_module():
    model = nn.Sequential(nn.Linear(H, H, device="meta"), nn.Tanh())
    ledger = tracked(model, step(model))
    assert ("1", "aten.tanh_backward<TanhBackward0>") in {
        (s.module, s.op) for s in ledger.storages if s.moment == "backward"
    }


def test_views_allocate_no_storage():
    model = nn.Flatten()

    def run(tracker):
        tracker.enter("forward")
        x = torch.ones(4, 4, device="meta")
        x.view(16)
        x.t()
        x[0]

    assert len(tracked(model, run).storages) == 1


def test_a_label_changes_a_storages_component_and_name():
    model = nn.Linear(H, H, bias=False, device="meta")
    ledger = Ledger()
    tracker = MemoryTracker(ledger, ModuleTracker(model, ""), None, KnownValues(1))
    model.weight.register_post_accumulate_grad_hook(lambda p: tracker.label("weight.grad", p.grad, "gradients"))
    with tracker.tracking():
        step(model)(tracker)
        assert tracker.live_bytes("gradients") == H * H * 4
    assert [s.name for s in ledger.storages if s.component == "gradients"] == ["weight.grad"]


def test_the_scratch_of_an_emulated_kernel_is_workspace_and_freed():
    model = nn.Identity()

    def run(tracker):
        tracker.enter("forward")
        q, k = (torch.ones(1, heads, 64, 64, dtype=torch.bfloat16, device="meta") for heads in (8, 2))
        q.requires_grad_()
        out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, True, False, scale=None)[0]
        tracker.enter("backward")
        out.sum().backward()

    ledger = tracked(model, run)
    scratch = [s for s in ledger.storages if "backward/aten.new_empty" in s.op]
    assert [s.shape for s in scratch] == [(1, 8, 128), (1, 128, 8, 64), (1, 64, 8, 64), (1, 64, 8, 64)]
    assert {s.component for s in scratch} == {"workspace"}
    assert not {s.number for s in scratch} & {s.number for s in ledger.alive_after(len(ledger.events))}


def test_the_indices_of_a_python_list_are_saved_for_the_backward_pass():
    model = nn.Linear(H, H, bias=False, device="meta")
    numbers = []

    def run(tracker):
        x = torch.ones(T, H, device="meta")
        tracker.enter("forward")
        loss = model(x)[[1, 2]].sum()
        numbers.extend(storage.number for storage in tracker.ledger.storages if storage.dtype == "int64")
        assert set(tracker.ledger.events).isdisjoint(~number for number in numbers)
        loss.backward()

    ledger = tracked(model, run)
    assert [ledger.storages[number].shape for number in numbers] == [(2,)]
