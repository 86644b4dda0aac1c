"""The shipped model catalogue: real `config.json` contents with the parameter counts they build."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from calculator.common.errors import refusal

_HUB_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+(?:/[^/?#]+)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An exact count that somebody published, and how it relates to the one that is built."""

    parameters: int
    relation: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model of the catalogue.

    `parameters` is the count of the model that transformers builds from `config`; `sources` are the texts behind
    the config's shape fields, `unconfirmed_fields` those that no second source shows.
    """

    id: str
    model_type: str
    aliases: tuple[str, ...]
    auto_class: str
    parameters: int
    published: Published | None
    config: dict[str, Any]
    sources: tuple[str, ...]
    confirmation: str
    unconfirmed_fields: tuple[str, ...]
    note: str | None


def model(name: str, loc: str = "model") -> ModelEntry:
    """Look a model up by hub id, alias, bare name or hub URL, whatever its case.

    Raises:
        PlanError: where the catalogue has no such model, naming the closest ones.
    """
    found = _index().get(_key(name))
    if found is None:
        raise refusal(loc, f"{_shown(name)} is not in the catalogue; {_way_out(name)}", name)
    return found


@cache
def models() -> tuple[ModelEntry, ...]:
    """Every model of the catalogue, in its order."""
    told = read("models.json")
    return tuple(_entry(row, told["sources"]) for row in told["models"])


def read(file: str) -> Any:
    """The decoded content of one of the catalogue's JSON files."""
    return json.loads(files(__name__).joinpath(file).read_text(encoding="utf-8"))


def closest(name: str, known: list[str]) -> list[str]:
    """The known names most like a name, likest first; at most five."""
    exact = {spelling.lower(): spelling for spelling in known}
    key = name.lower()
    containing = sorted((s for s in exact if key and key in s), key=len)
    alike = containing + get_close_matches(key, exact, n=5, cutoff=0.5)
    return [exact[s] for s in dict.fromkeys(alike)][:5]


def _entry(row: dict[str, Any], texts: dict[str, str]) -> ModelEntry:
    published = row["published"]
    return ModelEntry(
        **{
            **row,
            "aliases": tuple(row["aliases"]),
            "published": published and Published(**{**published, "source": texts[published["source"]]}),
            "sources": tuple(texts[key] for key in row["sources"]),
            "unconfirmed_fields": tuple(row["unconfirmed_fields"]),
        }
    )


@cache
def _index() -> dict[str, ModelEntry]:
    index: dict[str, ModelEntry] = {}
    for entry in models():
        for name in (entry.id, *entry.aliases):
            index[name.lower()] = index[name.rsplit("/", 1)[-1].lower()] = entry
    return index


def hub_id(name: str) -> str:
    """The hub id in a name: what a hub URL leads to, or the name itself."""
    url = _HUB_URL.match(name.strip())
    return url[1] if url else name.strip()


def _key(name: str) -> str:
    return hub_id(name).lower()


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _way_out(name: str) -> str:
    key = _key(name)[:100]
    bare = {entry.id.rsplit("/", 1)[-1]: entry.id for entry in models()}
    near = [bare[n] for n in closest(key.rsplit("/", 1)[-1], list(bare))] or closest(key, list(bare.values()))
    instead = 'give its config.json as {"config": {...}}'
    return f"did you mean {', '.join(near)}? Or {instead}" if near else instead
