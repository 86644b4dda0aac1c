import pytest
import torch

from validation.prove import overhead_claims
from validation.prove.claim import Figure
from validation.prove.experiment import Setting
from validation.prove.overhead import EXPERIMENT, FULL, LORA, VARIANTS, steps
from validation.prove.overhead_claims import Cost, Latency
from validation.prove.paired import Paired, median_uncertainty, paired, quartiles
from validation.prove.served import Served

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_quick_run_measures_every_variant():
    done = []
    found = EXPERIMENT.run(Setting(device=CPU, quick=True, step=lambda: done.append(1)))
    assert len(done) == steps(True)
    assert [claim.id.removeprefix("overhead-") for claim in found.claims] == [
        "lora-merged",
        "qlora-merged",
        "adapter",
        "prefix",
        "prompt",
    ]
    assert [curve.timing for curve in found.curves] == [True, True]
    (table,) = found.tables
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [variant.name for variant in VARIANTS]
    assert (rows["LoRA, merged"]["more_weights"], rows["LoRA, merged"]["more_cache"]) == (0, 0)
    assert rows["LoRA"]["more_weights"] == 2 * 4 * 16 * (256 + 256)
    assert rows["prompt"]["more_weights"] == 4 * 20 * 256  # PEFT keeps a prompt in float32
    assert rows["prefix"]["more_cache"] == rows["prompt"]["more_cache"] == 2 * 2 * 20 * 256


def latency(key, ratio, low=0.98, high=1.02):
    def figure(name, value, ends):
        return Figure(key=name, name=name, value=value, unit="×", low=ends[0], high=ends[1], of=100, timing=True)

    return Latency(ratio=figure(key, ratio, (ratio, ratio)), control=figure(f"{key}_control", 1, (low, high)))


def cost(key, ratio, **more):
    fields = {"weights": 100, "more_weights": 0, "cache": 10, "more_cache": 0} | more
    return Cost(prompt=latency(f"{key}_prompt", ratio), token=latency(f"{key}_token", ratio), **fields)


def kinds(**changed):
    costs = {variant.key: cost(variant.key, 1.0) for variant in VARIANTS} | {"adapter": cost("adapter", 1.02)}
    return {claim.id: claim.kind for claim in overhead_claims.claims(costs | changed, "")}


def test_a_ratio_within_the_noise_is_no_overhead():
    assert set(kinds().values()) == {"holds"}


@pytest.mark.parametrize("key", ["lora_merged", "qlora_merged", "prefix", "prompt"])
@pytest.mark.parametrize("wrong", [{"ratio": 1.05}, {"ratio": 1, "more_cache": 1}, {"ratio": 1, "more_weights": 1}])
def test_added_latency_or_memory_is_overhead(key, wrong):
    found = kinds(**{key: cost(key, **wrong)})
    assert [name for name, kind in found.items() if kind != "holds"] == [f"overhead-{key.replace('_', '-')}"]


@pytest.mark.parametrize("ratio", [1.002, 1.04])
def test_adapters_with_less_or_more_overhead_than_in_the_lesson_do_not_hold(ratio):
    assert kinds(adapter=cost("adapter", ratio))["overhead-adapter"] == "does not hold"


@pytest.mark.parametrize(("spread", "kind"), [(0.01, False), (0.4, True)])
def test_noisier_rounds_widen_the_bounds(spread, kind):
    wide = Latency(ratio=latency("x", 1.04).ratio, control=latency("x", 1, 1 - spread / 2, 1 + spread / 2).control)
    assert wide.none.holds == kind


def test_more_rounds_reduce_the_uncertainty_of_a_median():
    few, many = (quartiles("a", "a", [1, 2, 3, 4, 5] * n) for n in (1, 100))
    assert median_uncertainty(many) == pytest.approx(median_uncertainty(few) / 10)


def test_a_round_is_compared_with_the_bases_before_and_after_it_alternately(monkeypatch):
    clock = iter([0, 1, 0, 1, 0, 1, 0, 2, 0, 1, 0, 4, 0, 3])
    monkeypatch.setattr("validation.prove.paired.torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("validation.prove.paired.time.perf_counter", lambda: next(clock))
    found = paired(lambda: None, lambda: None, rounds=2, device=CPU)
    assert found == Paired(ratios=[2, 4 / 3], control=[1, 3])


def test_a_ratio_has_its_median_and_quartiles():
    figure = quartiles("a", "a", [1, 2, 3, 4, 5])
    assert (figure.low, figure.value, figure.high, figure.of, figure.timing) == (2, 3, 4, 5, True)


def test_a_token_leaves_a_served_layers_cache_unchanged():
    layer = Served(FULL, 256, 8, CPU)
    before = layer.cache_bytes()
    layer.token()
    assert layer.cache.get_seq_length() == layer.length == 8
    assert layer.cache_bytes() == before == 2 * 2 * 8 * 256


def test_a_merged_layer_has_only_the_bases_parameters():
    merged = Served(LORA, 256, 8, CPU, merged=True)
    assert [name for name, _ in merged.model.named_parameters() if "lora" in name] == []
