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


def lived(*events):
    """A ledger of births (bytes) and deaths (numbers, as strings) in one forward phase."""
    ledger = Ledger()
    ledger.enter("forward")
    for event in events:
        if isinstance(event, str):
            ledger.death(int(event))
        else:
            ledger.birth(storage(len(ledger.storages), event))
    return ledger


@pytest.mark.parametrize(("nbytes", "counted"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_a_size_is_rounded_up_to_512_bytes(nbytes, counted):
    assert rounded(nbytes) == counted


def test_the_peak_is_the_most_that_was_alive_at_once():
    assert lived(1000, 2000, "0", 600).peaks["forward"].bytes == 1024 + 2048


def test_what_is_alive_at_the_peak_sums_to_it():
    ledger = lived(1000, 2000, "0", 600, 700, "1")
    peak = ledger.peaks["forward"]
    assert sum(s.bytes for s in ledger.alive(peak.event)) == peak.bytes
    assert [s.number for s in ledger.alive(peak.event)] == [1, 2, 3]


def test_a_phase_starts_from_what_is_alive():
    ledger = lived(1000, "0", 2000)
    ledger.enter("backward")
    assert ledger.peaks["backward"].bytes == 2048
    assert ledger.peaks["backward"].op == "start of backward"


def test_a_storage_says_where_it_was_born():
    assert storage(0, 1).born == "model.layers.0:aten.mm"


def test_static_bytes_are_those_of_what_was_there_before():
    ledger = Ledger()
    ledger.birth(storage(0, 100, "static", "base_weights"))
    ledger.birth(storage(1, 100, "forward", "base_weights"))
    assert ledger.static() == {
        "base_weights": 512,
        "quantization_constants": 0,
        "adapter_weights": 0,
        "optimizer_states": 0,
    }
