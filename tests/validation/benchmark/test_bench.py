import subprocess
import sys

from calculator.limit_search.sweep import parse_sweep
from validation.benchmark.bench import SWEEP

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "peft", "bitsandbytes")))
from validation.benchmark import bench
from argparse import Namespace
bench.ON_DEVICES, bench.LIMITS = bench.ON_DEVICES[:1], bench.LIMITS[:1]
bench.seconds = lambda timed, runs, clock=bench.process_time: bench._time_once(timed, clock)  # without a warm-up
bench.run(Namespace(runs=1, traces=1))
"""


def test_the_calculator_is_timed_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True)
    assert "Llama-3.1-70B, QLoRA r 16 all-linear" in done.stdout
    assert "estimates/s" in done.stdout
    assert "`make bench` installs" in done.stdout


def test_a_sweep_has_every_combination_once():
    points = [str(point) for point in parse_sweep(SWEEP).points()]
    assert len(set(points)) == len(points) == 5 * 4 * 4
