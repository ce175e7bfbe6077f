"""Named profiles: the parts of a job message that many jobs share. An operator writes them in a TOML file.

[meetings]
prefix = "meetings/"
output.prefix = "transcripts/meetings/"
options = {languages = ["de", "en"], formats = ["json", "srt"]}
"""

import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from daemon.schema.job import MAX_KEY_BYTES, PROFILE_NAME, Bucket, Output, Webhook
from daemon.schema.options import ContractModel, Options

# Options of which a message's own replaces another one of the profile.
_EXCLUSIVE = {
    "language": ("languages",),
    "languages": ("language",),
    "num_speakers": ("min_speakers", "max_speakers"),
    "min_speakers": ("num_speakers",),
    "max_speakers": ("num_speakers",),
}


class Profile(ContractModel):
    """A profile. Messages name it, and notifications of S3 get it by bucket and prefix."""

    name: str = Field(pattern=f"^{PROFILE_NAME}$")
    bucket: Bucket | None = None  # None: any
    prefix: str | None = Field(None, max_length=MAX_KEY_BYTES)  # of keys; None: not for notifications
    options: Options = Options()
    output: Output = Output()
    webhook: Webhook | None = None

    def matches(self, bucket: str, key: str) -> bool:
        return self.prefix is not None and key.startswith(self.prefix) and self.bucket in (None, bucket)

    def complete(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the message with what it leaves out from this profile. Its own fields are not validated here."""
        own = {name: getattr(self, name).model_dump(exclude_unset=True) for name in ("options", "output")}
        given = message.get("options")
        for name, value in given.items() if isinstance(given, dict) else ():
            for other in _EXCLUSIVE.get(name, ()) if value is not None else ():
                own["options"].pop(other, None)
        found = dict(message)
        for name, values in own.items():
            found[name] = _merged(values, message.get(name, {}))
        if self.webhook is not None:
            found.setdefault("webhook", self.webhook.model_dump())
        return found


def _merged(below: Any, above: Any) -> Any:
    """Return the objects as one, in which `above` has precedence; any other value replaces what is below."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {name: _merged(below.get(name), value) for name, value in above.items()}


def matching(profiles: Sequence[Profile], bucket: str, key: str) -> Profile | None:
    """Return the profile for an object: the one with the longest prefix, and rather one for its bucket."""
    found = [profile for profile in profiles if profile.matches(bucket, key)]
    return max(found, key=lambda profile: (len(profile.prefix or ""), profile.bucket is not None), default=None)


def parse_profiles(text: str) -> tuple[Profile, ...]:
    """Read profiles from TOML. Raises ValueError that names all problems with their places."""
    found, problems = [], []
    for name, fields in tomllib.loads(text).items():
        if not isinstance(fields, dict):
            problems.append(f"{name} is not a table; write it as [{name}]")
            continue
        try:
            found.append(Profile(**{**fields, "name": name}))
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                problems.append(f"{'.'.join(map(str, (name, *problem['loc'])))}: {problem['msg']}")
    for index, one in enumerate(found):
        for other in found[:index]:
            if one.prefix is not None and (one.bucket, one.prefix) == (other.bucket, other.prefix):
                problems.append(f"{other.name} and {one.name} have the same prefix")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(found)
