"""The GPU catalogue, the memory that a process can use, and the verdict."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.common.sourced import Sourced
from calculator.devices import caveats, cuda_context, fit, gpu, gpus, library_workspace, usable
from calculator.devices.gpus import MIB, has_inline_ecc, typical_reserve_mib
from calculator.inputs.device import Device

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
        ("RTX 4090 24GB", "rtx-4090"),
        ("L4 24 GB", "l4"),
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
def test_a_gpu_is_found_by_every_spelling_of_its_name(name, identifier):
    assert gpu(name).id == identifier


@pytest.mark.parametrize(("name", "named"), [("24 GB", "GeForce RTX 4090"), ("80GB", "A100 SXM4 80 GB")])
def test_a_size_names_the_gpus_with_that_memory(name, named):
    with pytest.raises(PlanError, match=f"did you mean .*{named}.*? Or give its size as device.memory_bytes"):
        gpu(name)


@pytest.mark.parametrize("name", ["RTX 4090 48GB", "RTX 4090 24", "GB", "4090GB"])
def test_another_size_than_the_gpus_is_refused(name):
    with pytest.raises(PlanError, match="is not in the catalogue"):
        gpu(name)


@pytest.mark.parametrize(
    ("name", "named"),
    [("RTX 4099", "GeForce RTX 4090"), ("A100", "A100 PCIe 40 GB, A100 PCIe 80 GB"), ("V100", "V100S")],
)
def test_an_unknown_or_ambiguous_gpu_is_refused_with_the_closest_ones(name, named):
    with pytest.raises(PlanError, match=re.escape(named)) as caught:
        gpu(name)
    (problem,) = caught.value.problems
    assert problem.loc == "device.gpu"
    assert problem.input == name


@pytest.mark.parametrize("name", ["", " ", "nvidia", "\x00", "é" * 100_000])
def test_a_name_of_no_gpu_is_refused_with_an_alternative(name):
    with pytest.raises(PlanError, match="memory_bytes") as caught:
        gpu(name)
    assert len(str(caught.value)) < 1_000


def test_every_name_is_unique():
    for card in gpus():
        for name in (card.id, card.name, *card.aliases):
            assert gpu(name) is card


def test_the_catalogue_has_122_gpus():
    assert len(gpus()) == len({card.id for card in gpus()}) == 122


@pytest.mark.parametrize("card", gpus(), ids=lambda card: card.id)
def test_every_figure_of_a_gpu_has_a_source(card):
    assert card.origin
    assert (card.memory_driver_mib is None) == (card.memory_driver_source is None)
    assert (card.memory_torch_mib is None) == (card.memory_torch_source is None)
    assert (card.bandwidth_gbs is None) == (card.bandwidth_source is None)
    assert (card.bf16_tflops is None and card.fp16_tflops is None) == (card.tflops_source is None)


@pytest.mark.parametrize("card", gpus(), ids=lambda card: card.id)
def test_usable_memory_is_at_most_that_of_the_driver_and_the_data_sheet(card):
    assert 0.85 * card.memory_gb * 10**9 < card.usable_bytes <= card.memory_gb * GIB
    if card.memory_driver_mib is not None:
        assert card.usable_bytes < card.memory_driver_mib * MIB


def test_usable_memory_is_torchs_figure_if_it_is_known():
    assert usable(gpu("4090")).bytes == 24_081 * MIB
    assert "get_device_properties" in usable(gpu("4090")).assumption


def test_without_torchs_figure_the_typical_reserve_is_subtracted_from_the_drivers():
    memory = usable(gpu("rtx-3090-ti"))
    assert memory.bytes == (24_564 - typical_reserve_mib()) * MIB
    assert "nvidia-smi" in memory.assumption


def test_without_either_figure_reserve_and_error_correction_are_subtracted_from_the_data_sheet():
    memory = usable(gpu("l40"))
    assert memory.bytes == 45 * GIB - typical_reserve_mib() * MIB
    assert "data sheet" in memory.assumption
    assert "1/16" in memory.assumption


def test_error_correction_uses_a_sixteenth_of_every_data_center_gpu_with_gddr_and_a_known_driver():
    cards = [card for card in gpus() if has_inline_ecc(card) and card.memory_driver_mib is not None]
    assert len(cards) >= 6
    for card in cards:
        assert card.memory_driver_mib == pytest.approx(card.memory_gb * 1024 * 15 / 16, rel=0.002)


@pytest.mark.parametrize(
    ("name", "size"),
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
def test_each_of_two_threads_has_a_cublas_workspace(name, size):
    rows = library_workspace(gpu(name))
    assert [row.bytes for row in rows] == [size, size]
    assert all("CublasHandlePool.cpp" in row.source for row in rows)


def test_without_a_gpu_the_workspaces_are_an_a100s():
    assert library_workspace(None) == library_workspace(gpu("a100-sxm4-80gb"))


def test_the_context_names_the_gpu_it_was_measured_on():
    assert cuda_context(None).bytes == 426 * MIB
    assert "RTX 6000 Ada" in cuda_context(None).source
    assert "used for L4" in cuda_context(gpu("l4")).source
    assert "used for" not in cuda_context(gpu("rtx-6000-ada")).source


@pytest.mark.parametrize("fields", [{"name": "", "source": "x"}, {"name": "x", "source": " "}])
def test_a_constant_without_name_or_source_cannot_be_made(fields):
    with pytest.raises(ValueError, match="source"):
        Sourced(bytes=1, **fields)


def test_a_negative_constant_cannot_be_made():
    with pytest.raises(ValueError, match="negative"):
        Sourced(name="x", bytes=-1, source="y")


def test_a_gpu_before_ampere_has_caveats():
    assert len(caveats(gpu("t4"))) == 2
    assert caveats(gpu("rtx-4090")) == ()
    assert "not a CUDA GPU" in caveats(gpu("mi300x"))[0]


def fit_of(device, *, allocated, reserved=None, workspace=16 * MIB, context=426 * MIB, unsharded=None):
    reserved = allocated + workspace if reserved is None else reserved
    return fit(
        device,
        peak_allocated_bytes=allocated,
        library_workspace_bytes=workspace,
        peak_reserved_bytes=reserved,
        context_bytes=context,
        required_bytes=reserved + context,
        unsharded=unsharded,
    )


def test_no_device_gets_no_verdict():
    assert fit_of(Device(), allocated=GIB) is None


def test_a_run_fits_if_the_gpu_has_the_required_memory():
    answer = fit_of(Device(gpu="RTX 4090"), allocated=20 * GIB)
    assert answer is not None
    assert answer.verdict == "fits"
    assert answer.gpu is gpu("4090")
    assert answer.usable_bytes == 24_081 * MIB
    assert answer.headroom_bytes == (24_081 - 20 * 1024 - 16 - 426) * MIB
    assert answer.gpus_needed == 1
    assert answer.advice is None


def test_a_run_fits_to_the_last_byte_and_not_one_more():
    exact = fit_of(Device(memory_bytes=1_000), allocated=1_000, workspace=0, context=0)
    over = fit_of(Device(memory_bytes=1_000), allocated=1_001, workspace=0, context=0)
    assert (exact.verdict, exact.headroom_bytes) == ("fits", 0)
    assert (over.verdict, over.headroom_bytes) == ("does_not_fit", -1)


def test_a_run_is_tight_if_only_fragmentation_is_too_much():
    answer = fit_of(Device(gpu="4090"), allocated=22 * GIB, reserved=24 * GIB)
    assert answer.verdict == "tight"
    assert answer.headroom_bytes < 0
    assert "expandable_segments" in answer.advice


def test_a_run_does_not_fit_if_live_tensors_workspaces_and_context_are_too_much():
    assert fit_of(Device(gpu="4090"), allocated=24 * GIB).verdict == "does_not_fit"


def test_the_gpus_needed_have_the_required_memory_together():
    answer = fit_of(Device(memory_bytes=10 * GIB), allocated=25 * GIB, workspace=0, context=0)
    assert answer.gpus_needed == 3


def test_memory_that_no_sharding_divides_takes_its_part_of_every_gpu():
    device = Device(memory_bytes=10 * GIB)
    of_batch = fit_of(device, allocated=25 * GIB, workspace=0, context=0, unsharded=lambda: 5 * GIB)
    assert of_batch.gpus_needed == 4
    assert fit_of(device, allocated=25 * GIB, unsharded=lambda: 10 * GIB).gpus_needed is None
    assert fit_of(device, allocated=5 * GIB, unsharded=lambda: 10 * GIB).gpus_needed == 1


def test_a_sharded_run_that_fits_needs_the_gpus_it_is_sharded_over():
    answer = fit_of(Device(memory_bytes=10 * GIB, count=4, sharding="zero3"), allocated=5 * GIB)
    assert answer.gpus_needed == 4


def test_a_replicated_run_that_fits_needs_one_gpu():
    answer = fit_of(Device(memory_bytes=10 * GIB, count=4, sharding="ddp"), allocated=5 * GIB)
    assert answer.gpus_needed == 1


def test_a_gpu_and_a_size_together_are_refused():
    with pytest.raises(PlanError, match=r"device\.memory_bytes"):
        fit_of(Device(gpu="4090", memory_bytes=GIB), allocated=GIB)


@given(st.integers(1, 10**13), st.integers(1, 10**12))
def test_the_gpus_needed_are_enough_and_one_fewer_is_not(required, offered):
    answer = fit_of(Device(memory_bytes=offered), allocated=required, workspace=0, context=0)
    assert answer.gpus_needed * offered >= required > (answer.gpus_needed - 1) * offered
    assert (answer.gpus_needed == 1) == (answer.verdict == "fits")
