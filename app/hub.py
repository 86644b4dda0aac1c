"""A model's `config.json` from the hub, by huggingface_hub: the only thing here that ever goes online, when asked to.

One JSON file is fetched and read. Nothing of a repository is run, whatever its `auto_map` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.commands.request import read
from calculator.catalogue import hub_id
from calculator.errors import PlanError, refusal

if TYPE_CHECKING:
    from types import ModuleType

FILE = "config.json"

#: The way out where nothing can be fetched.
_BY_HAND = f"download {FILE} by hand and pass it with --config"


def config_of(name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of a model's `config.json`, from the hub or from what huggingface_hub has kept of it.

    Raises:
        PlanError: where the package is not installed, or the hub does not hand the file out, with the reason.
    """
    hub, repository = _package(), hub_id(name)
    try:
        path = hub.hf_hub_download(repository, FILE, revision=revision)
    except Exception as error:
        raise _refused(hub, error, repository, revision) from error
    config: dict[str, Any] = read(path)
    return config


def _package() -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415  an extra, which most uses do without
    except ImportError as error:
        told = f"huggingface_hub is not installed: pip install 'headroom[hub]', or {_BY_HAND}"
        raise refusal("id", told) from error
    package: ModuleType = huggingface_hub
    return package


def _refused(hub: ModuleType, error: Exception, repository: str, revision: str | None) -> PlanError:
    """What the hub's error means, and the way out; an error that is none of the hub's stays what it is."""
    known = hub.errors
    if isinstance(error, known.GatedRepoError):
        return refusal(
            "id", f"{repository} is gated: ask for access on {_page(repository)}, then hf auth login", repository
        )
    if isinstance(error, known.RepositoryNotFoundError):
        return refusal("id", f"there is no {repository} on the hub, or it is private: hf auth login", repository)
    if isinstance(error, known.RevisionNotFoundError):
        return refusal("revision", f"{repository} has no such branch, tag or commit", revision)
    if isinstance(error, known.LocalEntryNotFoundError | known.OfflineModeIsEnabled):
        return refusal(
            "id", f"the hub can't be reached, and no {FILE} of {repository} was kept: {_BY_HAND}", repository
        )
    if isinstance(error, known.EntryNotFoundError):
        return refusal("id", f"{repository} has no {FILE}: it holds no model of transformers", repository)
    if isinstance(error, known.HFValidationError):
        return refusal("id", "must be a hub id, such as meta-llama/Llama-3.1-8B", repository)
    if isinstance(error, known.HfHubHTTPError | OSError):
        return refusal("id", f"the hub did not hand it out ({error}): {_BY_HAND}", repository)
    raise error


def _page(repository: str) -> str:
    return f"https://huggingface.co/{repository}"
