"""Model source for the original publishers: the Hugging Face hub and, for torchaudio's models, PyTorch's site."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx2
import requests
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not re-exported

from daemon.errors import ModelUnavailable
from daemon.weights.cache import MAIN, Cache
from daemon.weights.needs import ModelRequirement
from daemon.weights.source import RemoteFile, RemoteModel, TransferInterrupted

# As torchaudio/pipelines/_wav2vec2/utils.py, _get_state_dict.
TORCHAUDIO_URL = "https://download.pytorch.org/torchaudio/models"
TIMEOUT_SECONDS = 30
# 408 and 429 are transient; 416: the partial file does not match the server's current version.
TRANSIENT_STATUSES = (408, 416, 429)


class Hub:
    def __init__(self, token: str | None, revisions: Mapping[str, str]) -> None:
        """`revisions` pins repositories to commits, branches or tags; others use their current state."""
        self._token = token
        self.revisions = revisions
        self._api = HfApi(token=token)

    def describe(self, need: ModelRequirement) -> RemoteModel:
        if constants.HF_HUB_OFFLINE:
            raise ModelUnavailable(
                "HF_HUB_OFFLINE=1 prevents access to the hub: unset it for the fetch, or pass --from s3://…"
            )
        revision = self.revisions.get(need.name, MAIN)
        with self._refusals(need.name, revision):
            if need.source == "torch":
                return _describe_torchaudio(need.name)
            info = self._api.model_info(need.name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        files = []
        for path in need.pick(siblings):
            sibling = siblings[path]
            if sibling.lfs is not None:
                files.append(RemoteFile(path, sibling.lfs.size, sibling.lfs.sha256, sha256=sibling.lfs.sha256))
            elif sibling.blob_id is not None and sibling.size is not None:
                files.append(RemoteFile(path, sibling.size, sibling.blob_id, git_sha1=sibling.blob_id))
            else:
                raise ModelUnavailable(f"the hub provides no size or digest for {need.name}/{path}")
        return RemoteModel("hub", need.name, info.sha, tuple(files))

    def download(self, model: RemoteModel, file: RemoteFile, cache: Cache) -> None:
        """Download one file. Raises as documented in ModelSource."""
        grown = cache.prepare(model, file)
        with self._refusals(model.name, str(model.revision)):
            if model.source == "hub":
                url = hf_hub_url(model.name, file.path, revision=model.revision)
                headers = build_hf_headers(token=self._token)
            else:  # another host: send no token
                url, headers = f"{TORCHAUDIO_URL}/{model.name}", {}
            # Not hf_hub_download: since its version 2 it restarts a file that broke off.
            with grown.open("ab") as target:
                http_get(url, target, resume_size=target.tell(), headers=headers, expected_size=file.size)
            cache.place(model, file)
        if fault := cache.fault(model, file.path, file.size, file.sha256, file.git_sha1):
            cache.remove(model, file)
            raise ModelUnavailable(f"{model.name}/{file.path}: the file from the hub {fault}; run the command again")

    @contextmanager
    def _refusals(self, name: str, revision: str) -> Iterator[None]:
        """Convert the hub's errors to ModelUnavailable, or to TransferInterrupted if a retry may help."""
        try:
            yield
        except GatedRepoError as error:
            token = "" if self._token else "HF_TOKEN is not set. "
            raise ModelUnavailable(
                f"the repository {name} is gated. {token}Accept the terms at https://huggingface.co/{name}, "
                "and set HF_TOKEN to a token of that account; or skip it with --no-diarization"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelUnavailable(f"the repository {name} has no revision {revision}") from error
        except RepositoryNotFoundError as error:
            raise ModelUnavailable(
                f"the hub has no repository {name}, or this account cannot access it; check the name and HF_TOKEN"
            ) from error
        except OfflineModeIsEnabled as error:
            raise ModelUnavailable("HF_HUB_OFFLINE=1 prevents access to the hub: unset it for the fetch") from error
        except (OSError, httpx2.HTTPError) as error:  # OSError also for a file of the wrong length, and by requests
            status = _status(error)
            if status is not None and 400 <= status < 500 and status not in TRANSIENT_STATUSES:
                raise ModelUnavailable(f"{name}: rejected with status {status}; check the name and HF_TOKEN") from error
            raise TransferInterrupted(f"{name}: {type(error).__name__}: {error}") from error


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error of huggingface_hub, which wraps some errors, or of requests."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        if isinstance(error, requests.RequestException) and error.response is not None:
            return error.response.status_code
        error = error.__cause__
    return None


def _describe_torchaudio(name: str) -> RemoteModel:
    url = f"{TORCHAUDIO_URL}/{name}"
    answer = requests.head(url, headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT_SECONDS, allow_redirects=True)
    answer.raise_for_status()
    size = answer.headers.get("Content-Length")
    if size is None:
        raise ModelUnavailable(f"{url}: the response has no Content-Length")
    # Do not continue a partial file of another version.
    version = hashlib.sha256(f"{size} {answer.headers.get('ETag')}".encode()).hexdigest()
    return RemoteModel("torch", name, None, (RemoteFile(name, int(size), f"{name}.{version[:16]}"),))
