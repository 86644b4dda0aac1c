import json
import platform
import socket

import torch

from validation.prove.environment import _cpu, environment


def test_an_environment_does_not_contain_the_host_name():
    text = json.dumps(environment(torch.device("cpu")))
    assert socket.gethostname() not in text
    assert platform.node() not in text


def test_a_processor_has_its_name_or_its_architecture(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n")
    assert _cpu(cpuinfo) == "Some CPU @ 3 GHz"
    assert _cpu(tmp_path / "none") in (platform.processor(), platform.machine())
