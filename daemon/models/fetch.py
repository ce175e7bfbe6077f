"""Bringing what a configuration needs into the cache, and telling whether it is there."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from daemon.errors import ConfigError, ModelUnavailable
from daemon.models.cache import Cache, RemoteFile, RemoteModel, digest_of, readable
from daemon.models.index import COMMIT, NAME, PATH, File, Index, Model, Source
from daemon.models.needs import PIPELINE_CONFIG, Need, merged, references
from daemon.models.transfer import Damaged, Interruption, ModelSource
from daemon.wording import clip

FILES_AT_ONCE = 4
TRIES = 4
BACKOFF_SECONDS = 1.0  # doubles
PROGRESS_SECONDS = 5.0

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A file that is needed; `fault` is what is wrong with it, empty when nothing is."""

    what: str
    name: str
    path: str
    size: int
    fault: str


@dataclass(frozen=True, slots=True)
class Report:
    rows: list[Row]
    models: Index  # what is needed, of what the local index lists

    @property
    def faults(self) -> list[Row]:
        return [row for row in self.rows if row.fault]


def verify(needs: Sequence[Need], cache: Cache) -> Report:
    """Whether each needed file is in the cache as the index beside it says. Raises ModelUnavailable for a bad index."""
    index = cache.load_index()
    rows: list[Row] = []
    for need in needs:
        model = index.find(need.source, need.name) if need.pipeline else None
        config = model.file(PIPELINE_CONFIG) if model is not None else None
        if model is None or config is None or cache.fault(model, config.path, config.size, config.sha256):
            continue  # which shows below
        try:
            needs = [*needs, *references(need, cache.path(model, config.path).read_bytes())]
        except ModelUnavailable as error:
            rows.append(Row(need.what, need.name, PIPELINE_CONFIG, config.size, error.message))
    models = []
    for need in merged(needs):
        model = index.find(need.source, need.name)
        if model is None:
            rows.append(Row(need.what, need.name, "", 0, "not fetched"))
            continue
        try:
            files = [file for path in need.pick(file.path for file in model.files) if (file := model.file(path))]
        except ModelUnavailable as error:
            rows.append(Row(need.what, need.name, "", 0, error.message))
            continue
        for file in files:
            fault = cache.fault(model, file.path, file.size, file.sha256)
            rows.append(Row(need.what, need.name, file.path, file.size, fault))
        if fault := cache.revision_fault(model):
            rows.append(Row(need.what, need.name, "refs/main", 0, fault))
        models.append(model.model_copy(update={"files": tuple(files)}))
    return Report(rows, Index(models=tuple(models)))


def fetch(needs: Sequence[Need], source: ModelSource, cache: Cache, say: Say) -> None:
    """Bring into the cache what it lacks. A model is found by the libraries once all of its files are there.

    Raises ModelUnavailable, DiskFull or ConfigError; what was fetched until then is kept, and continued the next time.
    """
    with cache.lock():
        index = cache.load_index()
        remotes = _plan(needs, source, cache, index)
        if unused := sorted(set(source.revisions) - {remote.name for remote in remotes}):
            raise ConfigError(f"--revision names {clip(unused[0])}, which is not among what is needed")
        digests: dict[tuple[str, str], str] = {}  # (model, path) → sha256 of what is whole
        lacking: list[tuple[RemoteModel, RemoteFile]] = []
        for remote in remotes:
            for file in remote.files:
                if digest := _whole(remote, file, cache, index):
                    digests[remote.name, file.path] = digest
                else:
                    lacking.append((remote, file))
        cache.require_space(_space(lacking, cache))
        if lacking:
            say(f"fetching {len(lacking)} files, {readable(sum(file.size for _, file in lacking))}")
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool, _progress(lacking, cache, say):
            coming: dict[tuple[str, str], Future[str]] = {
                (remote.name, file.path): pool.submit(_bring, remote, file, source, cache, say)
                for remote, file in lacking
            }
            try:
                for remote in remotes:
                    files = []
                    for file in remote.files:
                        key = (remote.name, file.path)
                        digest = coming[key].result() if key in coming else digests[key]
                        files.append(File(path=file.path, size=file.size, sha256=digest))
                    model = Model(source=remote.source, name=remote.name, revision=remote.revision, files=tuple(files))
                    index = index.updated([model])
                    cache.save_index(index)
                    cache.finish(model)
            finally:
                for future in coming.values():
                    future.cancel()
        whole = sum(file.size for remote in remotes for file in remote.files)
        say(f"{'all there' if lacking else 'nothing to fetch'}: {len(remotes)} models, {readable(whole)}")


def _plan(needs: Sequence[Need], source: ModelSource, cache: Cache, index: Index) -> list[RemoteModel]:
    """What is to be in the cache, with what the pipelines' config.yaml name: those small files are fetched here."""
    found = list(needs)
    for need in needs:
        if need.pipeline:
            remote = _describe(need, source)
            config = next(file for file in remote.files if file.path == PIPELINE_CONFIG)
            if not _whole(remote, config, cache, index):
                _bring(remote, config, source, cache, lambda _: None)
            found += references(need, cache.path(remote, config.path).read_bytes())
    return [_describe(need, source) for need in merged(found)]


def _describe(need: Need, source: ModelSource) -> RemoteModel:
    remote = _patiently(lambda: source.describe(need))
    # Whatever the source: what follows makes paths of these.
    for text, pattern in [(remote.name, NAME), *((file.path, PATH) for file in remote.files)]:
        if not re.fullmatch(pattern, text):
            raise ModelUnavailable(f"{need.what}: {clip(text)} cannot be the name of a file in the cache")
    if remote.revision is not None and not re.fullmatch(COMMIT, remote.revision):
        raise ModelUnavailable(f"{need.what}: {clip(remote.revision)} is not a commit")
    return remote


def _whole(remote: RemoteModel, file: RemoteFile, cache: Cache, index: Index) -> str | None:
    """The sha256 of the cached file, if that is what the source has."""
    model = index.find(remote.source, remote.name)
    known = model.file(file.path) if model is not None and model.revision == remote.revision else None
    digest = file.sha256 or (known.sha256 if known is not None and known.size == file.size else None)
    if cache.fault(remote, file.path, file.size, digest, file.git_sha1):
        return None
    return digest or digest_of(cache.path(remote, file.path))


def _bring(remote: RemoteModel, file: RemoteFile, source: ModelSource, cache: Cache, say: Say) -> str:
    cache.remove(remote, file)
    digest = _patiently(lambda: source.download(remote, file, cache))
    say(
        f"fetched {remote.name} {file.path} ({readable(file.size)})"
        if remote.source == "hub"
        else f"fetched {file.path}"
    )
    return digest


def _patiently(call: Callable[[], T]) -> T:
    """Try again what broke off; what came damaged once more, from its beginning. Raises ModelUnavailable."""
    tries = damaged = 0
    while True:
        try:
            return call()
        except Interruption as error:
            tries += 1
            damaged += isinstance(error, Damaged)
            if tries == TRIES or damaged == 2:
                raise ModelUnavailable(f"{error}. What was fetched is kept: run the command again") from error
            time.sleep(BACKOFF_SECONDS * 2 ** (tries - 1))


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


@contextlib.contextmanager
def _progress(lacking: Sequence[tuple[RemoteModel, RemoteFile]], cache: Cache, say: Say) -> Iterator[None]:
    """Say every few seconds how much is on the disk."""
    total = sum(file.size for _, file in lacking)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PROGRESS_SECONDS):
            done = sum(
                file.size if cache.path(remote, file.path).exists() else _grown(remote, file, cache)
                for remote, file in lacking
            )
            say(f"  {readable(done)} of {readable(total)}")

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
