"""The trainers of preferences and of reinforcement learning that axolotl and LLaMA-Factory run.

Source: axolotl at 067b021, core/builders/rl.py, core/trainers/dpo and core/trainers/grpo, whose trainers are subclasses
of TRL's (pyproject.toml: trl==1.8.0); LLaMA-Factory at ff6d4d1, train/dpo, train/kto and train/rm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from app.interop.imports import other_runs
from app.interop.imports.generation import generation
from app.interop.imports.other_runs import text_of
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.names import LossType
from calculator.trainers import TRAINERS

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.common.names import TrainerName

#: The trainer of each value of axolotl's `rl`.
AXOLOTL: dict[str, TrainerName] = {
    "dpo": "trl-dpo",
    "ipo": "trl-dpo",
    "kto": "trl-kto",
    "orpo": "trl-orpo",
    "grpo": "trl-grpo",
    "reward_model": "trl-reward",
}

#: The trainer of each of LLaMA-Factory's stages.
STAGES: dict[str, TrainerName] = {"dpo": "trl-dpo", "kto": "trl-kto", "rm": "trl-reward"}

#: How the step of the tool differs from that of TRL 1.16.
AXOLOTL_STEP = "axolotl 0.18 runs it with TRL 1.8, whose step was not traced."
FACTORY_STEP = "LLaMA-Factory runs a trainer of its own for it."

_OTHER = "Preference and reinforcement learning add a reference model, more sequences or another loss."


def axolotl_trainer(keys: Keys, rl: Any) -> TrainerName:
    """Return the trainer that `rl` names, or transformers' Trainer, with a warning for what is not modeled."""
    return _named(keys, "rl", rl, AXOLOTL, AXOLOTL_STEP) if rl else "transformers"


def reward_of_axolotl(keys: Keys) -> str | None:
    """Return the name of a run that trains a reward model. Source: core/builders/causal.py, _get_trainer_cls."""
    names = [name for name in ("reward_model", "process_reward_model") if keys.flag(name)]
    if names:
        keys.forget(("num_labels", "center_rewards_coefficient"))
    return names[0] if names else None


def stage_trainer(keys: Keys, stage: Any) -> TrainerName:
    """Return the trainer of a stage; transformers' Trainer for pt and sft. Some losses of dpo need no reference."""
    if stage in ("pt", "sft"):
        return "transformers"
    if stage == "dpo" and keys.left.get("pref_loss") in ("orpo", "simpo"):
        return _named(
            keys, "pref_loss", keys.take("pref_loss"), dict.fromkeys(("orpo", "simpo"), "trl-orpo"), FACTORY_STEP
        )
    return _named(keys, "stage", stage, STAGES, FACTORY_STEP)


def _named(keys: Keys, key: str, name: Any, trainers: dict[str, TrainerName], step: str) -> TrainerName:
    trainer = trainers.get(name) if isinstance(name, str) else None
    if trainer is None:
        keys.warn(f"{key}: {text_of(name)}", _OTHER, "one of supervised fine-tuning")
        return "transformers"
    label = TRAINERS[trainer].facts.label.removeprefix("TRL ")
    keys.warn(f"the step of {key}: {text_of(name)}", step, f"one of {label} in TRL 1.16")
    return trainer


def axolotl_settings(keys: Keys, rl: Any, training: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a TRL trainer in an axolotl file: its loss, its reference and its generation."""
    trainer = training["trainer"]
    if trainer == "transformers":
        return {}
    trl_settings = keys.take("trl", {})
    if _is_map(trl_settings):
        keys.left |= {key: value for key, value in trl_settings.items() if key not in keys.left}
        keys.forget(key for key in WITHOUT_EFFECT["trl"] if key in trl_settings)
    engine = keys.take("vllm", {})
    if TRAINERS[trainer].facts.generates:
        _colocated(keys, engine)
    else:
        other_runs.warn_of(keys, other_runs.VLLM)
    keys.rename("rl_beta", "beta")
    settings: dict[str, Any] = {"padding": training["micro_batch_size"] * TRAINERS[trainer].facts.sequences > 1}
    losses = keys.take("loss_type", keys.take("dpo_loss_type"))
    loss = losses[0] if isinstance(losses, list) and len(losses) == 1 else losses
    if loss is None and rl == "ipo":
        loss = "ipo"
    if loss in get_args(LossType):
        settings["loss_type"] = loss
    elif loss is not None:
        keys.miss("loss_type", loss, "is not a loss that is modeled: the trainer's default is used")
    if TRAINERS[trainer].facts.generates:
        completion = generation(keys, trainer)
        settings |= completion
        if keys.left.get("beta") is not None:
            settings["beta"] = keys.number("beta", 0.0)
        return settings
    keys.forget(["beta", "dpo_label_smoothing", "kto_desirable_weight", "kto_undesirable_weight", "orpo_alpha"])
    if TRAINERS[trainer].facts.compares and keys.flag("precompute_ref_log_probs"):
        settings["precompute_ref_log_probs"] = True
    return settings


def _colocated(keys: Keys, engine: Any) -> None:
    """Read vLLM's share of the GPU, which axolotl takes from the settings of its server. Others have no effect.

    Source: axolotl's core/trainers/grpo/__init__.py, GRPOStrategy.set_training_args_kwargs.
    """
    share = engine.get("gpu_memory_utilization") if _is_map(engine) else None
    if share is not None and keys.left.get("vllm_mode") == "colocate":
        keys.left.setdefault("vllm_gpu_memory_utilization", share)


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def factory_settings(keys: Keys, trainer: TrainerName) -> dict[str, Any]:
    """Return the settings of a TRL trainer in a LLaMA-Factory file."""
    if trainer == "trl-dpo":
        loss = keys.take("pref_loss", "sigmoid")
        if loss in ("hinge", "ipo"):
            return {"loss_type": loss}
        if loss != "sigmoid":
            keys.miss("pref_loss", loss, "is not modeled: the loss sigmoid is used")
    keys.forget(
        ["pref_beta", "pref_ftx", "pref_bco_weight", "dpo_label_smoothing", "kto_chosen_weight", "kto_rejected_weight"]
    )
    return {}


def rows_of_kto(keys: Keys, training: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of a micro-batch of KTO. TRL's trainer needs at least two, LLaMA-Factory's one.

    Source: LLaMA-Factory, data/processor/feedback.py, which pairs the prompts and answers of the whole dataset.
    """
    rows = training["micro_batch_size"]
    if training["trainer"] != "trl-kto" or rows > 1:
        return {}
    keys.miss("per_device_train_batch_size", rows, "KTOTrainer pairs the rows of a micro-batch: 2 are used")
    return {"micro_batch_size": 2}
