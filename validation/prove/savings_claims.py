"""The lesson's claims about memory, compared with traced steps."""

from __future__ import annotations

from calculator.devices import gpu
from calculator.estimation.textbook import fewest_gpus
from validation.prove.claim import GB, Check, Claim, Figure
from validation.prove.lesson_runs import TRAINING_TEXT, Run, stated

SMALL_GPU, LARGE_GPU = "rtx-4090", "a100-sxm4-80gb"

Runs = dict[str, Run]


def claims(selected: Runs) -> tuple[Claim, ...]:
    """Return every claim, in the lesson's order."""
    every = (computed, reduction, small_gpu, training, thirteen, cards, share)
    return tuple(claim(selected) for claim in every)


def computed(selected: Runs) -> Claim:
    """Return the calculator compared with the trace."""
    pairs = [result.compared for result in selected.values()]
    peaks = Figure(key="peaks", name="bytes in which peaks differ", value=sum(abs(e.peak - t.peak) for e, t in pairs))
    parts = sum(abs(exact.static[name] - value) for exact, traced in pairs for name, value in traced.static.items())
    rest = Figure(key="parts", name="bytes in which weights, constants, gradients and states differ", value=parts)
    return Claim(
        id="savings-computed",
        lesson="A run's memory can be computed before it is started.",
        done=f"The calculator's figures for {len(selected)} of the lesson's runs, at {TRAINING_TEXT}, compared with a"
        " training step of the real modules on the meta device.",
        figures=(peaks, rest),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in (peaks, rest)),
    )


def reduction(selected: Runs) -> Claim:
    """Full fine-tuning of 70B compared with QLoRA."""
    low, _ = stated("reduction against full fine-tuning")
    peak = selected["qlora"].found.peak
    pure = Figure(key="bfloat16", name="full in bfloat16 over QLoRA", value=selected["full"].found.peak / peak)
    mixed = Figure(
        key="mixed", name="full in float32 under autocast over QLoRA", value=selected["mixed"].found.peak / peak
    )
    return Claim(
        id="savings-reduction",
        lesson=f"QLoRA needs {low:g} times less memory than full fine-tuning of 70B.",
        done="The peaks of the traced steps.",
        figures=(pure, mixed),
        checks=tuple(Check(figure=figure, relation="at least", bounds=(low,)) for figure in (pure, mixed)),
        remark="The lesson's 12 bytes per parameter match neither kind of full fine-tuning: bfloat16 weights have"
        " bfloat16 states, and mixed precision has float32 weights and gradients.",
    )


def small_gpu(selected: Runs) -> Claim:
    """70B on a 24 GB GPU."""
    peak = _peak(selected["qlora"], "peak")
    return Claim(
        id="savings-24gb",
        lesson="A single consumer GPU of 24 GB can fine-tune a 70B model with QLoRA.",
        done=f"The traced peak, compared with the memory that a process can use on a {gpu(SMALL_GPU).name}.",
        figures=(peak,),
        checks=(Check(figure=peak, relation="at most", bounds=(gpu(SMALL_GPU).usable_bytes,)),),
    )


def training(selected: Runs) -> Claim:
    """Return the memory of QLoRA on 70B, by component."""
    low, high = (stated(f"training with {n} GB of activations")[0] * GB for n in (2, 3))
    plain = _peak(selected["qlora"], "peak")
    return Claim(
        id="savings-training",
        lesson=f"QLoRA with r 64 on 70B needs {low / GB:g} to {high / GB:g} GB to train.",
        done="The traced peak, with LoRA on q, k, v and o in float32, PEFT's default.",
        figures=(plain, _peak(selected["prepared"], "prepared")),
        checks=(Check(figure=plain, relation="between", bounds=(int(low), int(high))),),
        remark=_excess(selected["qlora"]),
    )


def _excess(run: Run) -> str:
    """Return each component's bytes in excess of the lesson's, in GB."""
    static = run.found.static
    excess = {
        "the base with its constants": _difference(
            static["base_weights"] + static["quantization_constants"], run, "base_weights"
        ),
        "LoRA's weights": _difference(static["adapter_weights"], run, "adapter_weights"),
        "Adam's states": _difference(static["optimizer_states"], run, "optimizer_states"),
    }
    return f"Larger than in the lesson: {', '.join(f'{name} ({value:+.2g} GB)' for name, value in excess.items())}."


def _difference(measured: int, run: Run, component: str) -> float:
    return (measured - (run.lesson(component) or 0)) / GB


def thirteen(selected: Runs) -> Claim:
    """13B with a low and a high rank."""
    _, limit = stated("total with r 256 stays under")
    _, total = stated("total, batch 1")
    small, large = _peak(selected["r16"], "r16"), _peak(selected["r256"], "r256")
    return Claim(
        id="savings-13b",
        lesson=f"13B with QLoRA needs {total:g} GB at r 16, and stays under {limit:g} GB at r 256.",
        done="The traced peaks.",
        figures=(small, large),
        checks=(
            Check(figure=small, relation="at most", bounds=(int(total * GB),)),
            Check(figure=large, relation="at most", bounds=(int(limit * GB),)),
        ),
        remark=_fits((small, large)),
    )


def _fits(figures: tuple[Figure, ...]) -> str:
    card = gpu(SMALL_GPU)
    fitting = sum(figure.value <= card.usable_bytes for figure in figures)
    return f"{fitting} of the {len(figures)} peaks fit the memory that a process can use on a {card.name}."


def cards(selected: Runs) -> Claim:
    """Return the number of GPUs that the 70B runs need."""
    low, _ = stated("A100 80GB GPUs for that memory")
    card = gpu(LARGE_GPU)
    needed = [
        Figure(
            key=key,
            name=f"GPUs for {selected[key].name}",
            value=fewest_gpus(selected[key].found.peak, card.usable_bytes),
            unit="GPUs",
        )
        for key in ("full", "mixed")
    ]
    one = Figure(
        key="prepared",
        name=f"GPUs for {selected['prepared'].name}",
        value=fewest_gpus(selected["prepared"].found.peak, card.usable_bytes),
        unit="GPUs",
    )
    return Claim(
        id="savings-cards",
        lesson=f"Full fine-tuning of 70B needs {low:g} or more A100 80GB for its memory, and QLoRA one.",
        done=f"The traced peaks divided by the memory that a process can use on one {card.name}, as if the peak could"
        " be split evenly.",
        figures=(*needed, one),
        checks=(
            *(Check(figure=figure, relation="at least", bounds=(low,)) for figure in needed),
            Check(figure=one, relation="equal to", bounds=(1,)),
        ),
    )


def share(selected: Runs) -> Claim:
    """Return the parameters that LoRA on 7B trains."""
    low, _ = stated("on Q, K, V, O of 32 layers")
    parameters = selected["lora"].found.parameters
    added = Figure(key="added", name="parameters that LoRA adds", value=parameters["added"])
    static = selected["lora"].found.static
    trained = static["gradients"] + static["optimizer_states"]
    return Claim(
        id="savings-lora",
        lesson=f"LoRA of r 8 on q, k, v and o of 7B trains {int(low):,} parameters.",
        done="The real modules' parameters, and the bytes of their gradients and Adam's states.",
        figures=(
            added,
            Figure(
                key="share",
                name="share of the base model's",
                value=100 * parameters["added"] / parameters["base"],
                unit="%",
            ),
            Figure(key="trained", name="their gradients and states", value=trained, unit="bytes"),
            _peak(selected["lora"], "peak"),
        ),
        checks=(Check(figure=added, relation="equal to", bounds=(int(low),)),),
    )


def _peak(run: Run, key: str) -> Figure:
    return Figure(key=key, name=f"peak of {run.name}", value=run.found.peak, unit="bytes")
