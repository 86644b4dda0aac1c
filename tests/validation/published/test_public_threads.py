"""Out-of-memory messages of public threads: the tensor that is found for each."""

import pytest

from validation.published.threads import diagnosed, threads

#: The tensor that is found, and whether the replay ends there on what the message leaves.
FOUND = {
    "7177": ("transformer.h.*.attn: scores, scaled", True),
    "3360": ("loss: gradient of the logits", False),
    "1819": ("loss: gradient of the logits", True),
    "104": ("transformer.h.*.attn: scores", True),
    "208": ("transformer.h.*.attn: scores + mask", False),
    "23": ("transformer.h.*.attn: scores, scaled", False),
    "88": ("loss: gradient of the logits", False),
    "329": ("model.layers.*.self_attn: scores, scaled", False),
    "1": ("model.layers.*.self_attn: softmax", False),
    "31": ("loss: logits in float32", False),
    "218": None,
    "189": None,
    "522": None,
    "1221": ("DeepSpeed: float32 gradients: adamw_torch temporary", True),
    "1722": ("DeepSpeed: gathered weights", False),
    "5590": ("DeepSpeed: master weights: exp_avg_sq", False),
}


@pytest.mark.parametrize("thread", threads(), ids=lambda thread: thread["address"].split("/", 3)[3])
def test_each_thread_names_its_tensor(thread):
    found = diagnosed(thread)
    first = found.diagnosis.matches[0].tensor if found.diagnosis.matches else None
    assert (None if first is None else (first, found.is_end)) == FOUND[thread["address"].rsplit("/", 1)[1]]
    assert bool(found.why) == (first is None)
    assert thread["address"].startswith("https://github.com/")
