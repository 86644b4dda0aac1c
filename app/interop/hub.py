"""A model's `config.json` from the hub, by huggingface_hub: the only thing here that ever goes online, when asked to.

One JSON file is fetched and read. Nothing of a repository is run, whatever its `auto_map` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli import files
from calculator.catalogue import hub_id
from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from types import ModuleType

FILE = "config.json"

#: How long the hub may take to say that it has the file, in seconds, unless HF_HUB_ETAG_TIMEOUT says longer.
PATIENCE = 30

#: The way out where nothing can be fetched.
_BY_HAND = f"download {FILE} by hand and pass it with --config"


def config_of(name: str, revision: str | None = None) -> dict[str, Any]:
    """The content of a model's `config.json`, from the hub or from what huggingface_hub has kept of it.

    Raises:
        PlanError: where the package is not installed, or the hub does not hand the file out, with the reason.
    """
    (hub, http), repository = _packages(), hub_id(name)
    hub.utils.logging.set_verbosity_error()
    try:
        kept = not _answers(hub, http, repository, revision)
        path = hub.hf_hub_download(repository, FILE, revision=revision, etag_timeout=PATIENCE, local_files_only=kept)
    except Exception as error:
        raise _refused(hub, http, error, repository, revision) from error
    config = files.value(Path(path).read_bytes(), f"{repository}'s {FILE}", "id")
    if not isinstance(config, dict):
        raise refusal("id", f"{repository}'s {FILE} holds no object", repository)
    return config


def _answers(hub: ModuleType, http: ModuleType, repository: str, revision: str | None) -> bool:
    """Whether the hub is there to be asked, with its file or with a refusal.

    A download that can't reach the hub is tried again for 23 seconds and more, which its arguments can't forbid.
    """
    url = hub.hf_hub_url(repository, FILE, revision=revision)
    try:
        hub.get_hf_file_metadata(url, timeout=max(PATIENCE, hub.constants.HF_HUB_ETAG_TIMEOUT))
    except (http.ConnectError, http.TimeoutException, hub.errors.OfflineModeIsEnabled):
        return False
    except hub.errors.HfHubHTTPError:
        return True
    return True


def _packages() -> tuple[ModuleType, ModuleType]:
    """huggingface_hub, and the HTTP client that it brings."""
    try:
        import httpx2  # noqa: PLC0415  an extra, which most uses do without
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        message = f"huggingface_hub is not installed: pip install 'headroom[hub]', or {_BY_HAND}"
        raise refusal("id", message) from error
    return huggingface_hub, httpx2


def _refused(hub: ModuleType, http: ModuleType, error: Exception, repository: str, revision: str | None) -> PlanError:
    """What the hub's error means, and the way out; an error that is none of the network's stays what it is."""
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
    if isinstance(error, http.HTTPError | http.InvalidURL | OSError):
        return refusal("id", f"the hub did not hand it out ({error}): {_BY_HAND}", repository)
    raise error


def _page(repository: str) -> str:
    return f"https://huggingface.co/{repository}"
