import pytest

from validation.tracing.ledger import Ledger, Storage, rounded


def storage(number, nbytes, moment="forward", component="activations"):
    return Storage(
        number=number,
        module="model.layers.0",
        op="aten.mm",
        moment=moment,
        shape=(nbytes,),
        dtype="uint8",
        nbytes=nbytes,
        component=component,
    )


def recorded(*events):
    """A ledger of allocations (bytes) and frees (numbers, as strings) in one forward phase."""
    ledger = Ledger()
    ledger.enter("forward")
    for event in events:
        if isinstance(event, str):
            ledger.free(int(event))
        else:
            ledger.allocate(storage(len(ledger.storages), event))
    return ledger


@pytest.mark.parametrize(("nbytes", "counted"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_a_size_is_rounded_up_to_512_bytes(nbytes, counted):
    assert rounded(nbytes) == counted


def test_the_peak_is_the_maximum_of_live_bytes():
    assert recorded(1000, 2000, "0", 600).peaks["forward"].bytes == 1024 + 2048


def test_live_tensors_at_the_peak_sum_to_it():
    ledger = recorded(1000, 2000, "0", 600, 700, "1")
    peak = ledger.peaks["forward"]
    assert sum(s.bytes for s in ledger.alive_after(peak.event)) == peak.bytes
    assert [s.number for s in ledger.alive_after(peak.event)] == [1, 2, 3]


def test_a_phases_peak_includes_what_is_already_alive():
    ledger = recorded(1000, "0", 2000)
    ledger.enter("backward")
    assert ledger.peaks["backward"].bytes == 2048
    assert ledger.peaks["backward"].op == "start of backward"


def test_a_storage_has_its_allocation_site():
    assert storage(0, 1).site == "model.layers.0:aten.mm"


def test_static_bytes_are_those_of_storages_before_the_step():
    ledger = Ledger()
    ledger.allocate(storage(0, 100, "static", "base_weights"))
    ledger.allocate(storage(1, 100, "forward", "base_weights"))
    assert ledger.static() == {
        "base_weights": 512,
        "quantization_constants": 0,
        "adapter_weights": 0,
        "optimizer_states": 0,
    }
