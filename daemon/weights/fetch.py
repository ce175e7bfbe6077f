"""Fetches the models that a configuration needs into the cache, and verifies the cache."""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from daemon.errors import ConfigError, ModelUnavailable
from daemon.schema.wording import clip
from daemon.weights.cache import Cache, readable
from daemon.weights.index import COMMIT, NAME, PATH, File, Index, Model, Source, sha256_file
from daemon.weights.needs import PIPELINE_CONFIG, ModelRequirement, merged, references
from daemon.weights.pins import NO_PINS, Pins
from daemon.weights.source import ModelSource, RemoteFile, RemoteModel, TransferInterrupted

FILES_AT_ONCE = 4
PROGRESS_SECONDS = 5.0

Say = Callable[[str], None]

_retrying = Retrying(
    retry=retry_if_exception_type(TransferInterrupted),
    stop=stop_after_attempt(4),
    wait=wait_exponential(),
    reraise=True,
)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A required file; `fault` describes what is wrong with it and is empty if it is intact."""

    what: str
    name: str
    path: str
    size: int
    fault: str


@dataclass(frozen=True, slots=True)
class VerificationReport:
    rows: list[FileCheck]
    models: Index  # the required models that the local index lists

    @property
    def faults(self) -> list[FileCheck]:
        return [row for row in self.rows if row.fault]


def verify(needs: Sequence[ModelRequirement], cache: Cache, pins: Pins = NO_PINS) -> VerificationReport:
    """Compare every required file in the cache with its pin, or with the local index if there is none.

    Raises ModelUnavailable for a damaged index.
    """
    index = cache.load_index().replaced_by(pins)
    rows: list[FileCheck] = []
    for need in needs:
        model = index.find(need.source, need.name) if need.pipeline else None
        config = model.file(PIPELINE_CONFIG) if model is not None else None
        if model is None or config is None or cache.fault(model, config.path, config.size, config.sha256):
            continue  # reported below
        try:
            needs = [*needs, *references(need, cache.path(model, config.path).read_bytes())]
        except ModelUnavailable as error:
            rows.append(FileCheck(need.what, need.name, PIPELINE_CONFIG, config.size, error.message))
    models = []
    for need in merged(needs):
        model = index.find(need.source, need.name)
        if model is None:
            rows.append(FileCheck(need.what, need.name, "", 0, "not fetched"))
            continue
        try:
            files = [file for path in need.pick(file.path for file in model.files) if (file := model.file(path))]
        except ModelUnavailable as error:
            rows.append(FileCheck(need.what, need.name, "", 0, error.message))
            continue
        for file in files:
            fault = cache.fault(model, file.path, file.size, file.sha256)
            rows.append(FileCheck(need.what, need.name, file.path, file.size, fault))
        if fault := cache.revision_fault(model):
            rows.append(FileCheck(need.what, need.name, "refs/main", 0, fault))
        models.append(model.model_copy(update={"files": tuple(files)}))
    return VerificationReport(rows, Index(models=tuple(models)))


def fetch(needs: Sequence[ModelRequirement], source: ModelSource, cache: Cache, say: Say, pins: Pins = NO_PINS) -> None:
    """Fetch the missing files into the cache. The libraries find a model once all of its files are present.

    The source must have pinned models as they are pinned.

    Raises ModelUnavailable, DiskFull, ConfigError or TransferInterrupted; fetched data is kept, and the next
    fetch continues it.
    """
    with cache.lock():
        index = cache.load_index()
        remotes = _plan(needs, source, cache, index, pins)
        if unused := sorted(set(source.revisions) - {remote.name for remote in remotes} - set(pins.revisions)):
            raise ConfigError(f"--revision names {clip(unused[0])}, which is not a required model")
        lacking = [
            (remote, file) for remote in remotes for file in remote.files if not _is_whole(remote, file, cache, index)
        ]
        cache.require_space(_space(lacking, cache))
        if lacking:
            say(f"fetching {len(lacking)} files, {readable(sum(file.size for _, file in lacking))}")
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            coming: dict[str, list[Future[None]]] = {}
            for remote, file in lacking:
                coming.setdefault(remote.name, []).append(pool.submit(_download, remote, file, source, cache, say))
            try:
                for remote in remotes:
                    _wait(coming.get(remote.name, ()), lambda: say(_progress(lacking, cache)))
                    model = _described(remote, cache)
                    index = index.updated([model])
                    cache.save_index(index)
                    cache.finish(model)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        whole = sum(file.size for remote in remotes for file in remote.files)
        say(f"{'complete' if lacking else 'nothing to fetch'}: {len(remotes)} models, {readable(whole)}")


def _plan(
    needs: Sequence[ModelRequirement], source: ModelSource, cache: Cache, index: Index, pins: Pins
) -> list[RemoteModel]:
    """Describe all required models, including those named in a pipeline's config.yaml, which is fetched for this."""
    found = list(needs)
    for need in needs:
        if need.pipeline:
            remote = _describe(need, source, pins)
            config = next(file for file in remote.files if file.path == PIPELINE_CONFIG)
            if not _is_whole(remote, config, cache, index):
                _download(remote, config, source, cache, lambda _: None)
            found += references(need, cache.path(remote, config.path).read_bytes())
    return [_describe(need, source, pins) for need in merged(found)]


def _describe(need: ModelRequirement, source: ModelSource, pins: Pins) -> RemoteModel:
    remote = _retrying(source.describe, need)
    # Checked for every source, because these become paths below.
    for text, pattern in [(remote.name, NAME), *((file.path, PATH) for file in remote.files)]:
        if not re.fullmatch(pattern, text):
            raise ModelUnavailable(f"{need.what}: {clip(text)} cannot be the name of a file in the cache")
    if remote.revision is not None and not re.fullmatch(COMMIT, remote.revision):
        raise ModelUnavailable(f"{need.what}: {clip(remote.revision)} is not a commit")
    pinned = pins.find(need.source, need.name)
    return remote if pinned is None else _as_pinned(need, remote, pinned)


def _as_pinned(need: ModelRequirement, remote: RemoteModel, pinned: Model) -> RemoteModel:
    """Return what the source announces with the pinned digests. Raises ModelUnavailable if it is something else."""
    if remote.revision != pinned.revision:
        raise ModelUnavailable(
            f"{need.what}: the source has {need.name} at {remote.revision}, but {pinned.revision} is pinned; mirror that revision, "
            f"or pass --revision {need.name}={remote.revision} and pin it with `transcriptd models pin`"
        )
    files = []
    for file in remote.files:
        pin = pinned.file(file.path)
        if pin is None or (file.size, file.sha256 or pin.sha256) != (pin.size, pin.sha256):
            raise ModelUnavailable(f"{need.what}: the source's {need.name}/{file.path} is not the one that is pinned")
        files.append(replace(file, sha256=pin.sha256))
    return replace(remote, files=tuple(files))


def _is_whole(remote: RemoteModel, file: RemoteFile, cache: Cache, index: Index) -> bool:
    """Whether the cached file is the same as the source's."""
    model = index.find(remote.source, remote.name)
    known = model.file(file.path) if model is not None and model.revision == remote.revision else None
    digest = file.sha256 or (known.sha256 if known is not None and known.size == file.size else None)
    return not cache.fault(remote, file.path, file.size, digest, file.git_sha1)


def _download(remote: RemoteModel, file: RemoteFile, source: ModelSource, cache: Cache, say: Say) -> None:
    cache.remove(remote, file)
    _retrying(source.download, remote, file, cache)
    name = f"{remote.name} {file.path}" if remote.source == "hub" else file.path
    say(f"fetched {name} ({readable(file.size)})")


def _wait(futures: Iterable[Future[None]], tell: Callable[[], None]) -> None:
    """Wait for all transfers, calling `tell` periodically. Raises the first error."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, PROGRESS_SECONDS, FIRST_EXCEPTION)
        for future in done:
            future.result()
        if pending:
            tell()


def _described(remote: RemoteModel, cache: Cache) -> Model:
    """Return the index entry of a model whose files are all in the cache."""
    files = tuple(
        File(path=file.path, size=file.size, sha256=file.sha256 or sha256_file(cache.path(remote, file.path)))
        for file in remote.files
    )
    return Model(source=remote.source, name=remote.name, revision=remote.revision, files=files)


def _space(lacking: Sequence[tuple[RemoteModel, RemoteFile]], cache: Cache) -> dict[Source, int]:
    space: dict[Source, int] = {}
    for remote, file in lacking:
        space[remote.source] = space.get(remote.source, 0) + max(0, file.size - _grown(remote, file, cache))
    return space


def _grown(remote: RemoteModel, file: RemoteFile, cache: Cache) -> int:
    try:
        return cache.incomplete(remote, file).stat().st_size
    except OSError:
        return 0


def _progress(lacking: Sequence[tuple[RemoteModel, RemoteFile]], cache: Cache) -> str:
    done = sum(
        file.size if cache.path(remote, file.path).exists() else _grown(remote, file, cache) for remote, file in lacking
    )
    return f"  {readable(done)} of {readable(sum(file.size for _, file in lacking))}"
