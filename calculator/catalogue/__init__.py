"""The model catalogue: the `config.json` of each model, with its parameter count."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import cache, partial
from importlib.resources import files
from typing import Any

from calculator.common.errors import refusal

_HUB_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+(?:/[^/?#]+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published parameter count, and its difference from the computed count."""

    parameters: int
    relation: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model of the catalogue."""

    id: str
    model_type: str
    aliases: tuple[str, ...]
    auto_class: str
    #: The number of parameters of the model that transformers builds from `config`.
    parameters: int
    published: Published | None
    config: dict[str, Any]
    #: The `config.json` of the whole model with its towers, if `config` only describes its text model.
    image_text_config: dict[str, Any] | None
    #: The sources of the config's shape fields.
    sources: tuple[str, ...]
    confirmation: str
    #: The fields that no second source confirms.
    unconfirmed_fields: tuple[str, ...]
    note: str | None

    def config_for(self, *, images: bool) -> dict[str, Any]:
        """Return the `config.json` of the model that trains on images, or only on text."""
        return self.image_text_config if images and self.image_text_config is not None else self.config


def model(name: str, loc: str = "model") -> ModelEntry:
    """Look a model up by hub id, alias, bare name or hub URL, in any case.

    Raises:
        PlanError: if the catalogue lacks the model. The message names the closest ones.
    """
    entry = _entries_by_id().get(name) or _index().get(_key(name))
    if entry is None:
        raise refusal(loc, f"{_quoted(name)} is not in the catalogue; {_suggestion(name)}", name)
    return entry


@cache
def models() -> tuple[ModelEntry, ...]:
    """Return every model of the catalogue, in its order."""
    catalogue = read("models.json")
    return tuple(_entry(row, catalogue["sources"]) for row in catalogue["models"])


def read(file: str) -> Any:
    """Return the decoded content of a JSON file of the catalogue."""
    return json.loads(files(__name__).joinpath(file).read_text(encoding="utf-8"))


#: The least similarity of a name that is proposed, and the least length of a name that is proposed as a part.
_CUTOFF, _PART = 0.6, 5


def similar_names(name: str, names: list[str]) -> list[str]:
    """Return at most five known names that are similar to a name, the closest first.

    Those that contain the name precede those that are a part of it.
    """
    exact = {spelling.lower(): spelling for spelling in names}
    key = name.lower()
    containing = sorted((s for s in exact if key and key in s), key=len)
    contained = sorted((s for s in exact if len(s) >= _PART and s in key), key=len, reverse=True)
    similar = containing + contained + get_close_matches(key, exact, n=5, cutoff=_CUTOFF)
    return [exact[s] for s in dict.fromkeys(similar)][:5]


def _entry(row: dict[str, Any], texts: dict[str, str]) -> ModelEntry:
    published, towers = row["published"], row.get("image_text_config")
    return ModelEntry(
        **{
            **row,
            "image_text_config": towers and {**towers, "text_config": row["config"]},
            "aliases": tuple(row["aliases"]),
            "published": published and Published(**{**published, "source": texts[published["source"]]}),
            "sources": tuple(texts[key] for key in row["sources"]),
            "unconfirmed_fields": tuple(row["unconfirmed_fields"]),
        }
    )


@cache
def _entries_by_id() -> dict[str, ModelEntry]:
    return {entry.id: entry for entry in models()}


@cache
def _index() -> dict[str, ModelEntry]:
    index: dict[str, ModelEntry] = {}
    for entry in models():
        for name in (entry.id, *entry.aliases):
            index[name.lower()] = index[name.rsplit("/", 1)[-1].lower()] = entry
    return index


def hub_id(name: str) -> str:
    """Return the hub id in a hub URL, or the name itself if it is no URL."""
    url = _HUB_URL.match(name.strip())
    return url[1] if url else name.strip()


def _key(name: str) -> str:
    return hub_id(name).lower()


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _owner(name: str) -> str:
    return name.lower().rpartition("/")[0]


def similar(name: str) -> list[str]:
    """Return names of models that are similar to a name: one of each model, those of the same owner first."""
    return _similar_models(_key(name)[:100].replace(" ", "-"))


def _suggestion(name: str) -> str:
    near, instead = similar(name), 'give its config.json as {"config": {...}}'
    return f"did you mean {', '.join(near)}? Or {instead}" if near else instead


def _similar_models(key: str) -> list[str]:
    names = [name for entry in models() for name in (entry.id, *entry.aliases)]
    bare = {name.rsplit("/", 1)[-1]: name for name in reversed(names)}
    similar = [bare[n] for n in similar_names(key.rsplit("/", 1)[-1], list(bare))] or similar_names(key, names)
    names_by_model: dict[str, list[str]] = {}
    for name in similar:
        names_by_model.setdefault(_index()[name.lower()].id, []).append(name)
    closest_names = (max(spellings, key=partial(_similarity, key)) for spellings in names_by_model.values())
    return sorted(closest_names, key=lambda name: _owner(name) != _owner(key))


def _similarity(key: str, name: str) -> float:
    return SequenceMatcher(None, key, name.lower()).ratio()
