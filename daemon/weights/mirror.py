"""A mirror of models in S3: `blobs/<sha256>`, written once and never changed, and `index.json`, written last.

Readers see either the old or the new index, and all files that either of them lists exist.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from daemon.bucket_settings import BucketSettings
from daemon.errors import ConfigError, ModelUnavailable
from daemon.weights.cache import Cache, readable
from daemon.weights.index import MAX_INDEX_BYTES, Index, Model, parse_index, sha256_file
from daemon.weights.needs import ModelRequirement
from daemon.weights.source import RemoteFile, RemoteModel, TransferInterrupted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 8
INDEX_TRIES = 5
INDEX = "index.json"

_MISSING = {"NoSuchKey", "NoSuchBucket", "404"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


class Mirror:
    def __init__(self, url: str, revisions: Mapping[str, str], settings: BucketSettings) -> None:
        """`url` is `s3://bucket/prefix`; a revision that the mirror does not have is an error. Raises ConfigError."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise ConfigError(f"{url} is not of the form s3://bucket/prefix")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.revisions = revisions
        self._index: Index | None = None
        self._s3: S3Client = boto3.client(
            "s3",
            config=Config(
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=64,
                retries={"mode": "standard"},
                s3=settings.s3_options,
            ),
        )
        settings.prepare_client(self._s3)
        self._on_write = settings.write_parameters

    # --- reading

    def describe(self, need: ModelRequirement) -> RemoteModel:
        """Raises ModelUnavailable or TransferInterrupted."""
        if self._index is None:
            self._index, etag = self._read_index()
            if etag is None:
                raise ModelUnavailable(
                    f"there is no mirror at {self._url('')}; create one with `transcriptd models mirror --to {self._url('')}`"
                )
        model = self._index.find(need.source, need.name)
        if model is None:
            raise ModelUnavailable(
                f"the mirror {self._url('')} does not have {need.name} ({need.what}); add it with "
                f"`transcriptd models mirror --to {self._url('')}` on a machine that can reach the hub"
            )
        if (wanted := self.revisions.get(need.name, model.revision)) != model.revision:
            raise ModelUnavailable(f"the mirror has {need.name} at {model.revision}, but {wanted} was requested")
        files = []
        for path in need.pick(file.path for file in model.files):
            if (file := model.file(path)) is not None:
                files.append(RemoteFile(path, file.size, _blob(model, file.sha256), sha256=file.sha256))
        return RemoteModel(model.source, model.name, model.revision, tuple(files))

    def download(self, model: RemoteModel, file: RemoteFile, cache: Cache) -> None:
        """Download one file, never more bytes than the index lists. Raises as documented in ModelSource."""
        grown = cache.prepare(model, file)
        key = self._key(f"blobs/{file.sha256}")
        with grown.open("ab") as target, ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            while (done := target.tell()) < file.size:
                starts = range(done, file.size, PART_BYTES)[:PARTS_AT_ONCE]
                for part in pool.map(partial(self._part, key, file.size), starts):
                    target.write(part)
        digest = sha256_file(grown)
        if digest != file.sha256:
            grown.unlink()
            raise ModelUnavailable(
                f"{model.name}/{file.path}: s3://{self._bucket}/{key} has the sha256 {digest}; delete that object and run "
                f"`transcriptd models mirror --to {self._url('')}` again"
            )
        cache.place(model, file)

    def _part(self, key: str, size: int, start: int) -> bytes:
        end = min(start + PART_BYTES, size)
        url = f"s3://{self._bucket}/{key}"
        with _s3_errors(url):
            answer = self._s3.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={start}-{end - 1}")
            with closing(answer["Body"]) as body:
                announced = answer.get("ContentRange"), answer.get("ContentLength")
                if announced != (f"bytes {start}-{end - 1}/{size}", end - start):
                    raise ModelUnavailable(f"{url} does not have the {size} bytes listed in the mirror's index")
                # Read without a length, and from the body itself, not from the object that its `with` yields: otherwise
                # botocore accepts a truncated response.
                return body.read()

    # --- writing

    def publish(self, index: Index, cache: Cache, say: Callable[[str], None]) -> None:
        """Upload the files of `index` that the mirror lacks, then the merged index.

        Raises ModelUnavailable or TransferInterrupted.
        """
        present = self._present()
        for model in index.models:
            for file in model.files:
                name = f"{model.name}/{file.path}" if model.source == "hub" else model.name
                if present.get(file.sha256) == file.size:
                    continue
                say(f"uploading {name} ({readable(file.size)})")
                with _s3_errors(self._url(f"blobs/{file.sha256}")):
                    self._s3.upload_file(
                        str(cache.path(model, file.path)),
                        self._bucket,
                        self._key(f"blobs/{file.sha256}"),
                        ExtraArgs={"ChecksumAlgorithm": "SHA256", **self._on_write},
                        Config=TransferConfig(max_concurrency=PARTS_AT_ONCE),
                    )
                present[file.sha256] = file.size
        self._publish_index(index, say)

    def _publish_index(self, index: Index, say: Callable[[str], None]) -> None:
        for _ in range(INDEX_TRIES):
            known, etag = self._read_index()
            merged = known.updated(index.models)
            if etag is not None and merged == known:
                say(f"{self._url(INDEX)} is up to date")
                return
            try:
                with _s3_errors(self._url(INDEX)):
                    self._s3.put_object(
                        Bucket=self._bucket,
                        Key=self._key(INDEX),
                        Body=merged.to_bytes(),
                        ContentType="application/json",
                        **self._on_write,
                        **({"IfMatch": etag} if etag is not None else {"IfNoneMatch": "*"}),  # type: ignore[arg-type]
                    )
            except ModelUnavailable as error:
                if _code(error) in _CONFLICT:  # another run updated the index: merge again to keep its entries
                    continue
                raise
            say(f"wrote {self._url(INDEX)}")
            return
        raise TransferInterrupted(f"{self._url(INDEX)} is being changed by other runs; run the command again")

    def _read_index(self) -> tuple[Index, str | None]:
        """Return the index and its ETag; an empty index and None if the mirror has none."""
        try:
            with _s3_errors(self._url(INDEX)):
                answer = self._s3.get_object(Bucket=self._bucket, Key=self._key(INDEX))
                with closing(answer["Body"]) as body:
                    if answer["ContentLength"] > MAX_INDEX_BYTES:
                        raise ModelUnavailable(f"{self._url(INDEX)} is larger than {readable(MAX_INDEX_BYTES)}")
                    content = body.read()
        except ModelUnavailable as error:
            if _code(error) == "NoSuchKey":
                return Index(), None
            raise
        return parse_index(content, self._url(INDEX)), answer["ETag"]

    def _present(self) -> dict[str, int]:
        """Return the mirror's blobs: sha256 → size."""
        found: dict[str, int] = {}
        prefix = self._key("blobs/")
        with _s3_errors(self._url("blobs/")):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    found[item["Key"].removeprefix(prefix)] = item["Size"]
        return found

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _url(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._key(name)}".rstrip("/")


def _code(error: ModelUnavailable) -> str:
    """Return S3's error code behind an error that `_s3_errors` converted."""
    cause = error.__cause__
    return cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""


def _blob(model: Model, sha256: str) -> str:
    return f"{model.name}.{sha256[:16]}" if model.source == "torch" else sha256


@contextmanager
def _s3_errors(url: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise ModelUnavailable(f"{url} does not exist") from error
        if code == "InvalidRange":
            raise ModelUnavailable(f"{url} is shorter than listed in the mirror's index") from error
        if code in _CONFLICT:
            raise ModelUnavailable(f"{url} was changed by another run") from error
        if code in _DENIED:
            raise ModelUnavailable(
                f"{url}: S3 answered {code}; reading a mirror needs s3:GetObject and s3:ListBucket on it, writing one "
                "s3:PutObject too"
            ) from error
        raise TransferInterrupted(f"{url}: S3 answered {code}") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise TransferInterrupted(f"{url}: {type(error).__name__}: {error}") from error
