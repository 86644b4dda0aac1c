import json
import platform
import socket

import torch

from validation.prove.environment import _cpu, environment


def test_an_environment_names_no_host():
    told = json.dumps(environment(torch.device("cpu")))
    assert socket.gethostname() not in told
    assert platform.node() not in told


def test_a_processor_goes_by_its_name_or_else_by_its_architecture(tmp_path):
    described = tmp_path / "cpuinfo"
    described.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    assert _cpu(described) == "Some CPU @ 3 GHz"
    assert _cpu(tmp_path / "none") in (platform.processor(), platform.machine())
