"""The GPU catalogue, the memory that a card offers, and the verdict."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.common.sourced import Sourced
from calculator.devices import caveats, cuda_context, fit, gpu, gpus, library_workspace, usable
from calculator.devices.gpus import MIB, has_inline_ecc, typical_reserve_mib
from calculator.inputs.training import Device

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("rtx-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("nvidia geforce rtx 4090", "rtx-4090"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("4070 ti super", "rtx-4070-ti-super"),
        ("A100 80GB", "a100-sxm4-80gb"),
        ("a100-80gb", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("H100", "h100-sxm5-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("a10g", "a10g"),
        ("MI300X", "mi300x"),
    ],
)
def test_a_card_is_found_by_every_spelling_of_its_name(name, identifier):
    assert gpu(name).id == identifier


@pytest.mark.parametrize(
    ("name", "named"),
    [("RTX 4099", "GeForce RTX 4090"), ("A100", "A100 PCIe 40 GB, A100 PCIe 80 GB"), ("V100", "V100S")],
)
def test_an_unknown_or_ambiguous_card_is_refused_with_the_closest_ones(name, named):
    with pytest.raises(PlanError, match=re.escape(named)) as caught:
        gpu(name)
    (problem,) = caught.value.problems
    assert problem.loc == "device.gpu"
    assert problem.input == name


@pytest.mark.parametrize("name", ["", " ", "nvidia", "\x00", "é" * 100_000])
def test_a_name_that_names_no_card_is_refused_with_the_way_out(name):
    with pytest.raises(PlanError, match="memory_bytes") as caught:
        gpu(name)
    assert len(str(caught.value)) < 1_000


def test_every_name_names_one_card():
    for card in gpus():
        for name in (card.id, card.name, *card.aliases):
            assert gpu(name) is card


def test_the_catalogue_holds_122_cards():
    assert len(gpus()) == len({card.id for card in gpus()}) == 122


@pytest.mark.parametrize("card", gpus(), ids=lambda card: card.id)
def test_every_figure_of_a_card_names_its_source(card):
    assert card.origin
    assert (card.memory_driver_mib is None) == (card.memory_driver_source is None)
    assert (card.memory_torch_mib is None) == (card.memory_torch_source is None)
    assert (card.bandwidth_gbs is None) == (card.bandwidth_source is None)
    assert (card.bf16_tflops is None and card.fp16_tflops is None) == (card.tflops_source is None)


@pytest.mark.parametrize("card", gpus(), ids=lambda card: card.id)
def test_a_process_is_offered_at_most_what_the_driver_and_the_data_sheet_say(card):
    assert 0.85 * card.memory_gb * 10**9 < card.usable_bytes <= card.memory_gb * GIB
    if card.memory_driver_mib is not None:
        assert card.usable_bytes < card.memory_driver_mib * MIB


def test_a_known_card_offers_what_torch_prints():
    assert usable(gpu("4090")).bytes == 24_081 * MIB
    assert "get_device_properties" in usable(gpu("4090")).assumption


def test_without_torchs_figure_the_typical_reserve_comes_off_the_drivers():
    offered = usable(gpu("rtx-3090-ti"))
    assert offered.bytes == (24_564 - typical_reserve_mib()) * MIB
    assert "nvidia-smi" in offered.assumption


def test_without_either_figure_reserve_and_error_correction_come_off_the_data_sheet():
    offered = usable(gpu("l40"))
    assert offered.bytes == 45 * GIB - typical_reserve_mib() * MIB
    assert "data sheet" in offered.assumption
    assert "1/16" in offered.assumption


def test_error_correction_takes_a_sixteenth_of_every_data_centre_card_with_gddr_whose_driver_is_known():
    known = [card for card in gpus() if has_inline_ecc(card) and card.memory_driver_mib is not None]
    assert len(known) >= 6
    for card in known:
        assert card.memory_driver_mib == pytest.approx(card.memory_gb * 1024 * 15 / 16, rel=0.002)


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("t4", 8_519_680),
        ("a100-sxm4-80gb", 8_519_680),
        ("rtx-4090", 8_519_680),
        ("h100", 33_554_432),
        ("b200", 33_554_432),
        ("b300", 33_554_432),
        ("rtx-5090", 33_554_432),
    ],
)
def test_two_threads_hold_a_cublas_workspace_each(name, each):
    rows = library_workspace(gpu(name))
    assert [row.bytes for row in rows] == [each, each]
    assert all("CublasHandlePool.cpp" in row.source for row in rows)


def test_without_a_card_the_workspaces_are_an_a100s():
    assert library_workspace(None) == library_workspace(gpu("a100-sxm4-80gb"))


def test_the_context_says_of_which_card_it_was_measured():
    assert cuda_context(None).bytes == 426 * MIB
    assert "RTX 6000 Ada" in cuda_context(None).source
    assert "taken for L4" in cuda_context(gpu("l4")).source
    assert "taken for" not in cuda_context(gpu("rtx-6000-ada")).source


@pytest.mark.parametrize("told", [{"name": "", "source": "x"}, {"name": "x", "source": " "}])
def test_a_constant_without_name_or_source_cannot_be_made(told):
    with pytest.raises(ValueError, match="source"):
        Sourced(bytes=1, **told)


def test_a_negative_constant_cannot_be_made():
    with pytest.raises(ValueError, match="negative"):
        Sourced(name="x", bytes=-1, source="y")


def test_a_card_before_ampere_says_what_it_lacks():
    assert len(caveats(gpu("t4"))) == 2
    assert caveats(gpu("rtx-4090")) == ()
    assert "not a CUDA card" in caveats(gpu("mi300x"))[0]


def held_against(device, *, allocated, reserved=None, workspace=16 * MIB, context=426 * MIB):
    reserved = allocated + workspace if reserved is None else reserved
    return fit(
        device,
        peak_allocated_bytes=allocated,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        context_bytes=context,
        required_bytes=reserved + context,
    )


def test_no_device_gets_no_verdict():
    assert held_against(Device(), allocated=GIB) is None


def test_a_plan_fits_where_all_it_requires_is_within_what_the_card_offers():
    answer = held_against(Device(gpu="RTX 4090"), allocated=20 * GIB)
    assert answer is not None
    assert answer.verdict == "fits"
    assert answer.gpu is gpu("4090")
    assert answer.usable_bytes == 24_081 * MIB
    assert answer.headroom_bytes == (24_081 - 20 * 1024 - 16 - 426) * MIB
    assert answer.gpus_needed == 1
    assert answer.advice is None


def test_a_plan_that_fits_to_the_last_byte_fits_and_one_byte_more_does_not():
    exact = held_against(Device(memory_bytes=1_000), allocated=1_000, workspace=0, context=0)
    over = held_against(Device(memory_bytes=1_000), allocated=1_001, workspace=0, context=0)
    assert (exact.verdict, exact.headroom_bytes) == ("fits", 0)
    assert (over.verdict, over.headroom_bytes) == ("does_not_fit", -1)


def test_a_plan_is_tight_where_only_fragmentation_is_too_much():
    answer = held_against(Device(gpu="4090"), allocated=22 * GIB, reserved=24 * GIB)
    assert answer.verdict == "tight"
    assert answer.headroom_bytes < 0
    assert "expandable_segments" in answer.advice


def test_a_plan_does_not_fit_where_live_tensors_workspaces_and_context_are_too_much():
    assert held_against(Device(gpu="4090"), allocated=24 * GIB).verdict == "does_not_fit"


def test_cards_needed_hold_what_is_required_together():
    answer = held_against(Device(memory_bytes=10 * GIB), allocated=25 * GIB, workspace=0, context=0)
    assert answer.gpus_needed == 3


def test_a_divided_plan_that_fits_needs_the_cards_it_is_divided_over():
    answer = held_against(Device(memory_bytes=10 * GIB, count=4, sharding="zero3"), allocated=5 * GIB)
    assert answer.gpus_needed == 4


def test_a_replicated_plan_that_fits_would_run_on_one_card():
    answer = held_against(Device(memory_bytes=10 * GIB, count=4, sharding="ddp"), allocated=5 * GIB)
    assert answer.gpus_needed == 1


def test_a_card_and_a_size_together_are_refused():
    with pytest.raises(PlanError, match=r"device\.memory_bytes"):
        held_against(Device(gpu="4090", memory_bytes=GIB), allocated=GIB)


@given(st.integers(1, 10**13), st.integers(1, 10**12))
def test_the_cards_needed_hold_it_and_one_fewer_would_not(required, offered):
    answer = held_against(Device(memory_bytes=offered), allocated=required, workspace=0, context=0)
    assert answer.gpus_needed * offered >= required > (answer.gpus_needed - 1) * offered
    assert (answer.gpus_needed == 1) == (answer.verdict == "fits")
