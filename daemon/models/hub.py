"""Models from where they are published: Hugging Face's hub and, for torchaudio's, PyTorch's site."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from daemon.errors import ModelUnavailable
from daemon.models.cache import MAIN, Cache, RemoteFile, RemoteModel, digest_of
from daemon.models.needs import Need
from daemon.models.transfer import Damaged, Interruption

# torchaudio/pipelines/_wav2vec2/utils.py, _get_state_dict.
TORCHAUDIO_URL = "https://download.pytorch.org/torchaudio/models"
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1024 * 1024
# 408 and 429 pass; 416 means that what was begun does not fit what is there now, and is begun again.
PASSING = (408, 416, 429)


class Hub:
    def __init__(self, token: str | None, revisions: Mapping[str, str]) -> None:
        """`revisions` pins repositories to commits, branches or tags; the others are taken as they are now."""
        self._token = token
        self.revisions = revisions
        self._api = HfApi(token=token)

    def describe(self, need: Need) -> RemoteModel:
        """Raises ModelUnavailable or Interruption."""
        if constants.HF_HUB_OFFLINE:
            raise ModelUnavailable("HF_HUB_OFFLINE=1 forbids the hub: unset it for the fetch, or give --from s3://…")
        if need.source == "torch":
            return self._describe_torchaudio(need)
        revision = self.revisions.get(need.name, MAIN)
        with self._refusals(need.name, revision):
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
                raise ModelUnavailable(f"the hub tells neither size nor digest of {need.name}/{path}")
        return RemoteModel("hub", need.name, info.sha, tuple(files))

    def download(self, model: RemoteModel, file: RemoteFile, cache: Cache) -> str:
        """Raises as ModelSource says."""
        grown = cache.prepare(model, file)
        if model.source == "torch":
            self._download_torchaudio(model.name, file, grown)
            digest = digest_of(grown)
            cache.place(model, file)
            return digest
        with self._refusals(model.name, str(model.revision)):
            hf_hub_download(model.name, file.path, revision=model.revision, cache_dir=cache.hub, token=self._token)
        if fault := cache.fault(model, file.path, file.size, file.sha256, file.git_sha1):
            cache.remove(model, file)
            raise Damaged(f"{model.name}/{file.path} as the hub sent it {fault} than the hub announced")
        return file.sha256 or digest_of(cache.path(model, file.path))

    def _describe_torchaudio(self, need: Need) -> RemoteModel:
        with _web_errors(need.name), _open(need.name, {}, method="HEAD") as answer:
            size, version = answer.headers.get("Content-Length"), answer.headers.get("ETag", "")
        if size is None:
            raise ModelUnavailable(f"{TORCHAUDIO_URL}/{need.name}: the answer tells no size")
        # What has grown of another version is not continued.
        blob = f"{need.name}.{hashlib.sha256(f'{size} {version}'.encode()).hexdigest()[:16]}"
        return RemoteModel("torch", need.name, None, (RemoteFile(need.name, int(size), blob),))

    def _download_torchaudio(self, name: str, file: RemoteFile, grown: Path) -> None:
        done = grown.stat().st_size if grown.exists() else 0
        with _web_errors(name), grown.open("ab") as target:
            if done < file.size:
                with _open(name, {"Range": f"bytes={done}-"}) as answer:
                    if answer.status != 206:  # the whole file, from its beginning
                        target.truncate(0)
                    while target.tell() <= file.size and (chunk := answer.read(CHUNK_BYTES)):
                        target.write(chunk)
        size = grown.stat().st_size
        if size > file.size:
            grown.unlink()
        if size != file.size:
            raise Interruption(f"{name} came with {size} of {file.size} bytes")

    @contextmanager
    def _refusals(self, name: str, revision: str) -> Iterator[None]:
        """The hub's errors in words, or as an Interruption where trying again may help."""
        try:
            yield
        except GatedRepoError as error:
            token = "" if self._token else "HF_TOKEN is not set. "
            raise ModelUnavailable(
                f"the repository {name} is gated. {token}Accept the terms at https://huggingface.co/{name}, "
                "and set HF_TOKEN to a token of the account that did; or leave it out with --no-diarization"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelUnavailable(f"the repository {name} has no revision {revision}") from error
        except RepositoryNotFoundError as error:
            raise ModelUnavailable(
                f"the hub has no repository {name}, or does not show it to this account; check the name and HF_TOKEN"
            ) from error
        except OfflineModeIsEnabled as error:
            raise ModelUnavailable("HF_HUB_OFFLINE=1 forbids the hub: unset it for the fetch") from error
        except OSError as error:  # requests' errors, and that of a file of the wrong length
            status = _status(error)
            if status is not None and 400 <= status < 500 and status not in PASSING:
                raise ModelUnavailable(f"the hub refused {name} with status {status}; check HF_TOKEN") from error
            raise Interruption(f"{name}: {type(error).__name__}: {error}") from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of huggingface_hub's, which wraps some in others."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return error.response.status_code
        error = error.__cause__
    return None


def _open(name: str, headers: dict[str, str], method: str = "GET") -> Any:
    request = urllib.request.Request(f"{TORCHAUDIO_URL}/{name}", headers=headers, method=method)  # noqa: S310  # https
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310


@contextmanager
def _web_errors(name: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in PASSING:
            raise ModelUnavailable(f"{TORCHAUDIO_URL}/{name}: refused with status {error.code}") from error
        raise Interruption(f"{name}: status {error.code}") from error
    except (OSError, HTTPException) as error:
        raise Interruption(f"{name}: {type(error).__name__}: {error}") from error
