import torch

from validation.measure.meter import StorageMeter, driver_bytes, workspace_bytes

CPU = torch.device("cpu")


def test_the_storage_meter_counts_live_storages_in_512_bytes():
    with StorageMeter() as meter:
        kept = [torch.empty(1), torch.empty(129)]
        assert meter.read().allocated == 512 + 1024
        view = kept[1][3:]
        assert meter.read().allocated == 512 + 1024
        kept.pop()
        assert meter.read().allocated == 512 + 1024
        del view
        assert meter.read().allocated == 512


def test_the_storage_meter_counts_what_autograd_saves():
    with StorageMeter() as meter:
        x = torch.ones(256, requires_grad=True)
        y = x.exp().sum()
        assert meter.read().allocated == 1024 + 1024 + 512
        del y
        assert meter.read().allocated == 1024


def test_tensors_on_the_host_in_a_gpu_run_are_not_counted():
    with StorageMeter() as meter:
        counter, weight = torch.zeros(()), torch.zeros(256)
        assert meter.read(host=[counter]).allocated == 1024
        del weight


def test_the_cpu_has_neither_peaks_nor_a_driver():
    with StorageMeter() as meter:
        reading = meter.read().to_json()
    assert reading["allocated"] == 0
    assert {value for name, value in reading.items() if name != "allocated"} == {None}
    assert driver_bytes(CPU) is None
    assert workspace_bytes(CPU) is None
