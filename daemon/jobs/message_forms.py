"""Turns every accepted form of a message body into the fields of a job message, before these are validated. Pure.

Accepted are a job message, a notification of a new object in S3, either of them in the envelope of SNS, and the message of
the original worker. Every body is bounded before it is parsed, because parsing blocks the event loop.
"""

import json
from dataclasses import dataclass
from typing import Any

from daemon.bucket_settings import allows
from daemon.config import Settings
from daemon.errors import InvalidJob, InvalidJson, UnknownProfile
from daemon.jobs.refusal import json_type
from daemon.jobs.result_store import is_result_name
from daemon.schema.job import MAX_BODY_CHARACTERS, MAX_FIELDS
from daemon.schema.notifications import (
    CreatedObject,
    Ignored,
    NotAJob,
    created_object,
    enclosed_message,
    is_envelope,
)
from daemon.schema.profiles import matching
from daemon.schema.wording import clip, nearest

# The flat message of the original worker. docs/migrating.md describes it.
ORIGINAL = {
    "job_id": ("job_id",),
    "s3_bucket": ("input", "bucket"),
    "object_key": ("input", "key"),
    "language": ("options", "language"),
    "model_size": ("options", "model"),
    "do_diarize": ("options", "diarize"),
    "min_speakers": ("options", "min_speakers"),
    "max_speakers": ("options", "max_speakers"),
}


@dataclass(frozen=True, slots=True)
class MessageForm:
    """What a body says, in the fields of a job message."""

    fields: dict[str, Any]
    created: CreatedObject | None = None  # set if the body is a notification


def read_form(body: str) -> MessageForm:
    """Read a body of any form.

    Raises NotAJob for an event that is no new recording, and InvalidJob for a body that cannot be read.
    """
    fields = _json_object(body)
    if is_envelope(fields):
        fields = _json_object(enclosed_message(fields))
    if created := created_object(fields):
        return MessageForm(created.message(), created)
    _check_number_of_fields(fields)
    if {"s3_bucket", "object_key"} <= fields.keys() <= ORIGINAL.keys():
        fields = _from_original(fields)
    return MessageForm(fields)


def job_fields(form: MessageForm, settings: Settings) -> dict[str, Any]:
    """Return the fields of the job message, completed by its profile, which a notification gets by its object's prefix.

    Raises NotAJob for an object that transcriptd wrote, and UnknownProfile.
    """
    if form.created and _is_own(form.created, settings):
        raise NotAJob(Ignored.OWN_OBJECT, form.created.key)
    fields = named_profile(form, settings)
    name = fields.get("profile")
    if not isinstance(name, str):  # none, or invalid
        return fields
    profiles = {profile.name: profile for profile in settings.profiles}
    if name not in profiles:
        known = nearest(name, list(profiles)) if profiles else "it has none (TRANSCRIPTD_PROFILES)"
        raise UnknownProfile(f"profile {clip(name)} is not a profile of this deployment; {known}")
    return profiles[name].complete(fields)


def named_profile(form: MessageForm, settings: Settings) -> dict[str, Any]:
    """Return the fields of the job message, with the name of a notification's profile."""
    created = form.created
    if created is None:
        return form.fields
    profile = matching(settings.profiles, created.bucket, created.key)
    return form.fields if profile is None else {**form.fields, "profile": profile.name}


def _is_own(created: CreatedObject, settings: Settings) -> bool:
    """Return whether transcriptd wrote the object, or may have: results in the bucket of the recordings must not be jobs."""
    if is_result_name(created.key):
        return True
    writes = created.bucket == settings.output_bucket or allows(settings.output_buckets, created.bucket)
    outputs = (profile.output.prefix for profile in settings.profiles)
    ended = (prefix if prefix.endswith("/") else prefix + "/" for prefix in outputs if prefix)
    prefixes = {settings.output_prefix, *settings.output_prefixes, *ended} - {"", "*"}
    return writes and created.key.startswith(tuple(prefixes))


def _from_original(body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for name, value in body.items():
        *way, last = ORIGINAL[name]
        if value is not None:
            place = message.setdefault(way[0], {}) if way else message
            place[last] = value
    return message


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _json_object(body: str) -> dict[str, Any]:
    """Parse a body. Its size is bounded."""
    if len(body) > MAX_BODY_CHARACTERS:
        raise InvalidJson(
            f"the body has {len(body)} characters, the limit is {MAX_BODY_CHARACTERS}; send references to large data"
        )
    try:
        data = json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"the body is not JSON ({error}); send one JSON object") from error
    if not isinstance(data, dict):
        raise InvalidJson(f"the body is a JSON {json_type(data)}; send one JSON object")
    return data


def _check_number_of_fields(body: dict[str, Any]) -> None:
    """Reject objects with very many fields, each of which would become a separate error. Metadata is the caller's.

    The contract has no deeper objects than these: anything else in their place is one error.
    """
    objects = [("the body", body), *((name, value) for name, value in body.items() if name != "metadata")]
    if isinstance(options := body.get("options"), dict):
        objects.append(("options.subtitles", options.get("subtitles")))
    for name, value in objects:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            where = name if name == "the body" else clip(name)
            raise InvalidJob(f"{where} has {len(value)} fields, the limit is {MAX_FIELDS}; remove the unknown ones")
