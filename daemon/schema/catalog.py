"""Whisper's model names and language codes, and the diarization pipeline that `auto` selects.

Defined here so that the poller does not import an ASR library.
"""

MULTILINGUAL_MODELS = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "large-v3-turbo")
ENGLISH_MODELS = ("tiny.en", "base.en", "small.en", "medium.en", "distil-small.en", "distil-medium.en")
MODELS = MULTILINGUAL_MODELS + ENGLISH_MODELS

# Trained without translation data: with the task `translate` it transcribes.
CANNOT_TRANSLATE = ("large-v3-turbo", "turbo")

# The codes of Whisper's tokenizer (openai/whisper, tokenizer.py); `yue` exists from large-v3 on.
LANGUAGES = tuple(
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is"
    " it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk"
    " sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh yue".split()
)

# Written without spaces between words: each character or token counts as a word.
UNSPACED_LANGUAGES = frozenset({"ja", "zh", "yue", "th", "lo", "my", "km"})

# Written from right to left, in the Arabic or Hebrew script.
RIGHT_TO_LEFT_LANGUAGES = frozenset({"ar", "fa", "he", "ps", "sd", "ur", "yi"})

# The name of the Whisper model that Python packages contain (weights/packaged.py): it needs no hub.
EMBEDDED_WHISPER = "embedded"


def model_name(model: str) -> str:
    """Return the name that jobs and outputs use for a model given as a name, a hub ID or a folder."""
    return model.rstrip("/").rsplit("/", 1)[-1].removeprefix("faster-whisper-")


def is_english_only(model: str) -> bool:
    return model.endswith(".en")


# The two pyannote pipelines that `auto` selects from.
EMBEDDED_DIARIZATION = "embedded"
HUB_DIARIZATION = "pyannote/speaker-diarization-community-1"


def diarization_name(model: str, *, has_token: bool) -> str:
    """Resolve the setting `diarization_model`: `auto` is the hub's pipeline with a token, else the embedded one."""
    if model != "auto":
        return model
    return HUB_DIARIZATION if has_token else EMBEDDED_DIARIZATION
