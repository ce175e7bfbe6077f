"""Edits of a message body in the form `path=value`, for `dlq redrive --set` and `submit --option`."""

import json
from dataclasses import dataclass
from typing import Any

from daemon.cli.command import UsageError
from daemon.schema.wording import clip


@dataclass(frozen=True, slots=True)
class Edit:
    path: tuple[str, ...]
    value: Any = None
    remove: bool = False


def setting(text: str, *above: str) -> Edit:
    """Parse `path=value`, with the path below `above`; a value that is not JSON is plain text."""
    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{clip(text)} has no `=`; write it like model=large-v3")
    try:
        return Edit((*above, *_path(path)), json.loads(value))
    except (ValueError, RecursionError):
        return Edit((*above, *_path(path)), value)


def removal(text: str) -> Edit:
    return Edit(_path(text), remove=True)


def apply(edits: list[Edit], message: dict[str, Any]) -> None:
    """Apply the edits in place and in order. Raises ValueError if a path leads through something that is no object."""
    for edit in edits:
        *way, last = edit.path
        place: Any = message
        for name in way:
            place = place.get(name, {}) if edit.remove else place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ValueError(f"{'.'.join(edit.path)}: {name} is not an object")
        if edit.remove:
            place.pop(last, None)
        else:
            place[last] = edit.value


def _path(text: str) -> tuple[str, ...]:
    names = tuple(text.strip().split("."))
    if not all(names):
        raise UsageError(f"{clip(text)} is not a path; write it like options.model")
    return names
