"""Downloads of `config.json` from the Hugging Face Hub: the only code here that uses the network, on request.

It reads one JSON file. It never runs code of a repository, whatever `auto_map` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.http.bodies import parse_json
from calculator.catalogue import hub_id
from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from types import ModuleType

FILE = "config.json"

#: The timeout of the metadata request, in seconds, unless HF_HUB_ETAG_TIMEOUT is larger.
TIMEOUT = 30

#: The advice if the file cannot be downloaded.
_BY_HAND = f"download {FILE} by hand and pass it with --config"


def config_of(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return a model's `config.json`, from the hub or from huggingface_hub's cache.

    Raises:
        PlanError: if the package is not installed, or the download fails, with the reason.
    """
    (hub, http), repository = _packages(), hub_id(name)
    hub.utils.logging.set_verbosity_error()
    try:
        offline = not _reachable(hub, http, repository, revision)
        path = hub.hf_hub_download(repository, FILE, revision=revision, etag_timeout=TIMEOUT, local_files_only=offline)
    except Exception as error:
        raise _refused(hub, http, error, repository, revision) from error
    config = parse_json(Path(path).read_bytes(), f"{repository}'s {FILE}", "id")
    if not isinstance(config, dict):
        raise refusal("id", f"{repository}'s {FILE} does not contain an object", repository)
    return config


def _reachable(hub: ModuleType, http: ModuleType, repository: str, revision: str | None) -> bool:
    """Return whether the hub responds, even if with an error.

    huggingface_hub retries a download for 23 seconds and more if it cannot connect, and has no option against it.
    """
    url = hub.hf_hub_url(repository, FILE, revision=revision)
    try:
        hub.get_hf_file_metadata(url, timeout=max(TIMEOUT, hub.constants.HF_HUB_ETAG_TIMEOUT))
    except (http.ConnectError, http.TimeoutException, hub.errors.OfflineModeIsEnabled):
        return False
    except hub.errors.HfHubHTTPError:
        return True
    return True


def _packages() -> tuple[ModuleType, ModuleType]:
    """Return huggingface_hub and the HTTP client that it uses."""
    try:
        import httpx2  # noqa: PLC0415  an optional extra
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        message = f"huggingface_hub is not installed: pip install 'huggingface-hub>=2,<3', or {_BY_HAND}"
        raise refusal("id", message) from error
    return huggingface_hub, httpx2


def _refused(hub: ModuleType, http: ModuleType, error: Exception, repository: str, revision: str | None) -> PlanError:
    """Return the meaning of a hub error and the way out; re-raise other errors."""
    codes = hub.errors
    if isinstance(error, codes.GatedRepoError):
        return refusal(
            "id", f"{repository} is gated: ask for access on {_page(repository)}, then hf auth login", repository
        )
    if isinstance(error, codes.RepositoryNotFoundError):
        return refusal("id", f"there is no {repository} on the hub, or it is private: hf auth login", repository)
    if isinstance(error, codes.RevisionNotFoundError):
        return refusal("revision", f"{repository} has no such branch, tag or commit", revision)
    if isinstance(error, codes.LocalEntryNotFoundError | codes.OfflineModeIsEnabled):
        return refusal(
            "id", f"the hub can't be reached, and {repository}'s {FILE} is not in the cache: {_BY_HAND}", repository
        )
    if isinstance(error, codes.EntryNotFoundError):
        return refusal("id", f"{repository} has no {FILE}: it does not contain a transformers model", repository)
    if isinstance(error, codes.HFValidationError):
        return refusal("id", "must be a hub id, such as meta-llama/Llama-3.1-8B", repository)
    if isinstance(error, http.HTTPError | http.InvalidURL | OSError):
        return refusal("id", f"the download failed ({error}): {_BY_HAND}", repository)
    raise error


def _page(repository: str) -> str:
    return f"https://huggingface.co/{repository}"
