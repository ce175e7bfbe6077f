"""Words a message's violations of the contract: all wrong fields at once, with the field to use instead."""

import difflib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from daemon.errors import InvalidJob, InvalidJobId, UnknownField
from daemon.schema.job import Input, Message, Output, Webhook
from daemon.schema.options import ContractModel, Options, SubtitleOptions
from daemon.schema.wording import clip, similar

MAX_PROBLEMS = 12
MAX_CHARS = 900
# How alike a field of another object must be to be suggested. Higher than within one object, because there are more of them.
SIMILARITY_ELSEWHERE = 0.8

# Fields of earlier workers → where the value belongs. docs/migrating.md shows them.
EARLIER_NAMES = {
    "s3_bucket": "input.bucket",
    "object_key": "input.key",
    "s3_key": "input.key",
    "model_size": "options.model",
    "do_diarize": "options.diarize",
    "output_bucket": "output.bucket",
    "output_prefix": "output.prefix",
    "webhook_url": "webhook.url",
    "callback_url": "webhook.url",
}

Location = tuple[int | str, ...]

_MODELS: dict[Location, type[ContractModel]] = {
    (): Message,
    ("input",): Input,
    ("output",): Output,
    ("options",): Options,
    ("options", "subtitles"): SubtitleOptions,
    ("webhook",): Webhook,
}
_PATHS = [".".join((*map(str, loc), name)) for loc, model in _MODELS.items() for name in model.model_fields]

# Pydantic's names for a value of the wrong JSON type.
_WRONG_SHAPE = {"model_type", "model_attributes_type", "dict_type", "list_type", "tuple_type"}
# Fields whose values must not appear in logs and dead letters: tokens in URLs, the caller's data, spoken content.
_PRIVATE = {"webhook", "metadata", "initial_prompt", "hotwords", "vocabulary", "audio_url"}


def refusal(error: ValidationError) -> InvalidJob:
    """Return the error of an invalid message. It names every wrong field."""
    problems = error.errors(include_url=False)
    # Unknown fields first: a misspelt required field is also reported as missing, and the spelling is the actual error.
    unknown = [problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"]
    others = [_word(problem) for problem in _one_for_each_field(problems, unknown)]
    found = [_unknown_fields(unknown), *others] if unknown else others
    words = "; also: ".join(one.message.removesuffix(".") for one in found)
    return type(found[0])(words if len(words) <= MAX_CHARS else words[:MAX_CHARS] + "…")


def json_type(value: object) -> str:
    names = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names.get(type(value), "value")


def _one_for_each_field(problems: Sequence[ErrorDetails], unknown: Sequence[Location]) -> Iterator[ErrorDetails]:
    """Yield the first problem of each field, without fields that are missing because they have an unknown name."""
    intended = [path for loc in unknown for path in _intended(loc)]
    seen: set[Location] = set()
    for problem in problems:
        loc = problem["loc"]
        path = _join(loc)
        if problem["type"] == "extra_forbidden" or loc[:2] in seen:
            continue
        if problem["type"] == "missing" and any(f"{other}.".startswith(f"{path}.") for other in intended):
            continue
        seen.add(loc[:2])
        yield problem


def _unknown_fields(unknown: Sequence[Location]) -> UnknownField:
    if len(unknown) == 1:
        kind = "option" if unknown[0][0] == "options" else "field"
        return UnknownField(f"unknown {kind} {clip(_join(unknown[0]))}; {_hint(unknown[0], alone=True)}")
    named = [
        clip(_join(loc)) + (f" ({hint})" if (hint := _hint(loc, alone=False)) else "") for loc in unknown[:MAX_PROBLEMS]
    ]
    if len(unknown) > MAX_PROBLEMS:
        named.append(f"{len(unknown) - MAX_PROBLEMS} more")
    return UnknownField(f"unknown fields: {', '.join(named)}")


def _hint(loc: Location, *, alone: bool) -> str:
    """Return what to do about an unknown field; '' if nothing is similar and it is not the only one."""
    if paths := _intended(loc):
        return "use " + " or ".join(f'"{path}"' for path in paths)
    name, known = str(loc[-1]), list(_MODELS[loc[:-1]].model_fields)
    if here := similar(name, known):
        return here
    names = {path.rpartition(".")[2]: path for path in _PATHS}
    if elsewhere := difflib.get_close_matches(name, names, n=1, cutoff=SIMILARITY_ELSEWHERE):
        return f'did you mean "{names[elsewhere[0]]}"?'
    return "known here: " + ", ".join(known) if alone else ""


def _intended(loc: Location) -> list[str]:
    """Return the fields that an unknown one certainly means: by an earlier name, or by its name in another object."""
    name = str(loc[-1])
    if name in EARLIER_NAMES:
        return [EARLIER_NAMES[name]]
    return [path for path in _PATHS if path.rpartition(".")[2] == name]


def _word(problem: ErrorDetails) -> InvalidJob:
    """Word a problem in the contract's terms. Quoted values are truncated."""
    loc, kind, message, value = problem["loc"], problem["type"], problem["msg"], problem["input"]
    path = _join(loc)
    if kind == "missing":
        return InvalidJob(f"{path} is missing; it is required")
    if path == "job_id":
        return InvalidJobId(
            f"job_id {clip(value)} is not allowed; {InvalidJobId.hint[0].lower()}{InvalidJobId.hint[1:]}"
        )
    # A value that is an object or a list, or is in the place of one, may contain private fields.
    private = _PRIVATE & {*loc} or isinstance(value, dict | list) or kind in _WRONG_SHAPE
    got = f"a JSON {json_type(value)}" if private else clip(value)
    return InvalidJob(f"{clip(path)}: {message[0].lower()}{message[1:]}; got {got}")


def _join(loc: Location) -> str:
    return ".".join(str(part) for part in loc)
