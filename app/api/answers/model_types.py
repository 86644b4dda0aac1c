"""Answer of `GET /api/v1/models/types`: the model types of transformers, and the engine that estimates each."""

from app.api.answers.answer import Answer, described
from calculator.estimation.traced.grade import EngineName, Grade


class ModelTypeAnswer(Answer):
    """A model type of transformers."""

    model_type: str = described("The type, as config.json names it.", "qwen3_next")
    tasks: tuple[str, ...] = described("The tasks for which transformers has a class of it.", ["causal LM"])
    modelled_tasks: tuple[str, ...] = described("Those of them that the calculator models.", ["causal LM"])
    engine: EngineName | None = described(
        "What answers an estimate of its language model: the calculator, or a trace; null if neither does.", "traced"
    )
    grade: Grade | None = described("How reliable such an answer is; null without one.", "modelled")
    why: str | None = described(
        "Why a trace of its default config fails, if neither answers. A published config.json can still be supported.",
        None,
    )
    kernel_packages: dict[str, tuple[str, ...]] = described(
        "Packages that replace functions of this model type if they are installed.",
        {"flash-linear-attention": ["chunk_gated_delta_rule"]},
    )
    unchecked_operations: tuple[str, ...] = described(
        "Operations that allocate memory in this type and in no model that the calculator models.", ["convolution"]
    )
    catalogue: tuple[str, ...] = described("The catalogue's models of this type.", ["Qwen/Qwen3-Next-80B-A3B"])


class TaskAnswer(Answer):
    """The number of model types of a task that an engine estimates."""

    task: str = described("The task.", "causal LM")
    types: int = described("Number of model types.", 196)
    modelled: int = described("Those that the calculator models.", 57)
    traced: int = described(
        "The others whose language model one of the engines answers: a trace is tried for them.", 118
    )


class ModelTypeList(Answer):
    """Model types of transformers, and how many an engine estimates."""

    date: str | None = described("When the types were traced; null without results.", "2026-11-27")
    versions: dict[str, str] = described("The releases of the libraries.", {"transformers": "5.24.0"})
    tasks: tuple[TaskAnswer, ...] = described("The number of types by task.", [{"task": "causal LM", "types": 196}])
    types: tuple[ModelTypeAnswer, ...] = described("The types that match, by name.", [{"model_type": "qwen3_next"}])
