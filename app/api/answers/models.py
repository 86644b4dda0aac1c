"""Answers of `GET /api/v1/models` and `GET /api/v1/models/{id}`."""

from typing import Any

from app.api.answers.answer import Answer, described


class Published(Answer):
    """A parameter count that somebody published, compared with ours."""

    parameters: int = described("The published number of parameters.", 8_030_261_248)
    relation: str = described("How it relates to the number that transformers builds from the config.", "equal")
    source: str = described("Who published it.", "the model's card")


class ModelListed(Answer):
    """A summary of a catalogue model."""

    id: str = described("The hub id. Pass it as `model` in a request.", "meta-llama/Llama-3.1-8B")
    model_type: str = described("The model family, as config.json names it.", "llama")
    parameters: int = described(
        "Number of parameters of the model that transformers builds from the config.", 8_030_261_248
    )
    aliases: tuple[str, ...] = described("Other ids of the same model.", ["unsloth/Meta-Llama-3.1-8B"])


class ModelDetail(ModelListed):
    """A catalogue model with its config and the config's sources."""

    auto_class: str = described("The kind of transformers class that builds the model.", "causal")
    config: dict[str, Any] = described("The fields of config.json that determine shapes.", {"hidden_size": 4096})
    image_text_config: dict[str, Any] | None = described(
        "The config.json of the whole model, with its towers, with which requests with images are answered; null if"
        " `config` is already whole, or if the model reads no images.",
        None,
    )
    published: Published | None = described(
        "A published parameter count to compare with; null if none is known.",
        {"parameters": 8_030_261_248, "relation": "equal"},
    )
    sources: tuple[str, ...] = described("Where the config's fields come from.", ["llama-models, sku_list.py"])
    confirmation: str = described("How far the sources agree.", "two sources")
    unconfirmed_fields: tuple[str, ...] = described(
        "Config fields that only one source confirms.", ["max_position_embeddings"]
    )
    note: str | None = described("A remark on the model; null if there is none.", None)


class ModelList(Answer):
    """Every model of the catalogue."""

    models: tuple[ModelListed, ...] = described("Every model, in the catalogue's order.", [{"id": "gpt2"}])
