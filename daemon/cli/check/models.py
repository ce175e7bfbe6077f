"""The configured models: in a folder, in the hub's cache, or still to be fetched at start-up."""

from collections.abc import AsyncGenerator
from pathlib import Path

from daemon.cli.check.registry import CheckResult, CheckStatus, check, failed, passed, skipped, warned
from daemon.config import Settings
from daemon.errors import ModelUnavailable
from daemon.schema.catalog import EMBEDDED_DIARIZATION, EMBEDDED_WHISPER, HUB_DIARIZATION, MODELS, diarization_name
from daemon.weights.needs import is_folder, whisper_repositories
from daemon.weights.packaged import speaker_encoder, whisper_base

FETCH = "Run transcriptd models fetch with the daemon's HF_HOME, or let the first start fetch it, which takes minutes."


@check("models", "the configured Whisper and alignment models are in their folders or in the hub's cache")
async def models(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    yield _model(settings.model)
    if settings.models != MODELS:  # the default offers every model, and few of them are ever fetched
        for source in settings.models:
            if source != settings.model:
                yield _model(source)
    for entry in settings.alignment_models:
        language, _, source = entry.partition("=")
        if is_folder(source) and not (Path(source) / "config.json").is_file():
            yield failed(
                f"{source}, the alignment model for {language}, is not a folder with a config.json",
                "Correct TRANSCRIPTD_ALIGNMENT_MODELS.",
            )


def _model(source: str) -> CheckResult:
    if source == EMBEDDED_WHISPER:
        try:
            return passed(f"{source}: Whisper base in {whisper_base()}, from Python packages")
        except ModelUnavailable as error:
            return failed(error.message, "Install transcriptd[embedded], or name another model in TRANSCRIPTD_MODEL.")
    if is_folder(source):
        if (Path(source) / "model.bin").is_file():
            return passed(f"{source}: a folder with a model.bin")
        return failed(
            f"{source} is not a folder with a model.bin in CTranslate2's format",
            "Correct TRANSCRIPTD_MODEL or TRANSCRIPTD_MODELS, or put the model there.",
        )
    try:
        repository = whisper_repositories().get(source, source)
    except ModelUnavailable as error:
        return failed(error.message, "Install the versions of requirements.lock (`make setup`, or deploy/install.sh).")
    if "/" not in repository:
        return failed(
            f"{source} is not a faster-whisper model",
            "Correct TRANSCRIPTD_MODEL or TRANSCRIPTD_MODELS: use a name known to faster-whisper, a hub ID or a folder.",
        )
    return _cached(repository, "model.bin", source)


def _cached(repository: str, file: str, name: str) -> CheckResult:
    """Whether the hub's cache has the file of the repository. Does not contact the hub."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:
        return failed(f"{name} is not a hub ID", "Use owner/name, or a folder.")
    if found:
        return passed(f"{name}: in the hub's cache")
    where = f"{name} ({repository}) is not in the hub's cache, {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return failed(
            f"{where}, and HF_HUB_OFFLINE prevents fetching it", "Fetch it beforehand, or unset HF_HUB_OFFLINE."
        )
    return warned(where, FETCH)


@check("diarization", "the diarization pipeline is available; a gated one has its HF_TOKEN")
async def diarization(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    asked_for, token = settings.diarization_model, settings.hf_token
    name = diarization_name(asked_for, has_token=token is not None)
    if name == EMBEDDED_DIARIZATION:
        yield _embedded()
        if asked_for == "auto":
            yield warned(
                "HF_TOKEN is not set: diarization uses the packaged pipeline, not pyannote's best one",
                f"Accept the conditions of https://huggingface.co/{HUB_DIARIZATION} and set HF_TOKEN, or set "
                f"TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION} if this is intended.",
            )
        return
    if is_folder(name):
        if (Path(name) / "config.yaml").is_file():
            yield passed(f"{name}: a folder with a config.yaml")
        else:
            yield failed(f"{name} is not a folder with a config.yaml", "Correct TRANSCRIPTD_DIARIZATION_MODEL.")
        return
    cached = _cached(name, "config.yaml", name)
    yield cached
    if cached.status is CheckStatus.PASS:
        return  # a cached pipeline needs no token
    if token:
        yield skipped(
            "HF_TOKEN is set; its access to the pipeline was not tested",
            f"If the runner is denied access, accept the conditions at https://huggingface.co/{name} with the token's account.",
        )
    elif name.startswith("pyannote/"):
        yield failed(
            f"{name} is gated, and HF_TOKEN is not set",
            f"Accept the conditions at https://huggingface.co/{name} and set HF_TOKEN, or set "
            f"TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION}.",
        )


def _embedded() -> CheckResult:
    try:
        encoder = speaker_encoder()
        encoder.path()
    except ModelUnavailable as error:
        return failed(error.message, "Install transcriptd[embedded], or set HF_TOKEN for pyannote's pipeline.")
    return passed(f"the packaged pipeline, with {encoder.name} speaker embeddings")
