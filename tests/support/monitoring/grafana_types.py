"""Check that a dashboard matches Grafana's published types.

The types come from `grafana-foundation-sdk`, which is generated from Grafana's schemas.

The SDK's parser ignores fields it does not know, so this module does not use it. It compares the SDK's declared types
with the JSON and reports undeclared fields, values of the wrong type, and missing required fields.
"""

import importlib
import re
import types
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus

# Fields that Grafana's editor stores for Prometheus annotations in addition to the annotation schema.
# https://grafana.com/docs/grafana/latest/datasources/prometheus/annotations/
BESIDE_THE_SCHEMA = {models.AnnotationQuery: {"titleFormat", "step", "useValueForTime"}}


def misfits(dashboard: Any) -> list[str]:
    """Return the mismatches with their paths; empty if there are none."""
    return _misfits(dashboard, models.Dashboard, "dashboard")


def _misfits(value: Any, hint: Any, place: str) -> list[str]:
    origin = get_origin(hint)
    if hint is Any or hint is object:
        return []
    if origin in (Union, types.UnionType):
        return _of_one(value, get_args(hint), place)
    if origin is Literal:
        return [] if value in get_args(hint) else [f"{place}: {value!r} is none of {get_args(hint)}"]
    if origin in (list, dict):
        if not isinstance(value, origin):
            return [f"{place}: {value!r} is no {origin.__name__}"]
        items = value.items() if origin is dict else enumerate(value)
        return [misfit for key, each in items for misfit in _misfits(each, get_args(hint)[-1], f"{place}.{key}")]
    if hint in (str, int, float, bool, type(None)):
        fits = type(value) is hint or (hint is float and type(value) is int)
        return [] if fits else [f"{place}: {value!r} is no {hint.__name__}"]
    if issubclass(hint, Enum):
        known = [each.value for each in hint]
        return [] if value in known else [f"{place}: {value!r} is none of {known}"]
    return _misfits_of_object(value, prometheus.Dataquery if hint is Dataquery else hint, place)


def _of_one(value: Any, hints: tuple[Any, ...], place: str) -> list[str]:
    if value is None and type(None) in hints:
        return []
    if isinstance(value, dict) and models.RowPanel in hints:
        hints = (models.RowPanel,) if value.get("type") == "row" else (models.Panel,)
    found = [_misfits(value, hint, place) for hint in hints if hint is not type(None)]
    return min(found, key=len)


def _misfits_of_object(value: Any, cls: type[Any], place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: no object"]
    hints = get_type_hints(cls)
    found = []
    for name, each in value.items():
        attribute = _attribute(name, hints)
        if attribute is None:
            if name not in BESIDE_THE_SCHEMA.get(cls, ()):
                found.append(f"{place}: {cls.__name__} has no {name}")
            continue
        hint = hints[attribute]
        if cls is models.Panel and name == "options":
            hint = _plugin(value["type"], "Options")
        found += _misfits(each, hint, f"{place}.{name}")
    if cls is models.Panel and (custom := value.get("fieldConfig", {}).get("defaults", {}).get("custom")) is not None:
        found += _misfits(custom, _plugin(value["type"], "FieldConfig"), f"{place}.custom")
    given = {_attribute(name, hints) for name in value}
    required = {name for name, hint in hints.items() if type(None) not in get_args(hint) and hint is not object}
    return found + [f"{place}: {cls.__name__} needs {name}" for name in sorted(required - given)]


def _attribute(name: str, hints: dict[str, Any]) -> str | None:
    """Return the SDK's name of a JSON field: `queryCachingTTL` is query_caching_ttl; Python keywords get the suffix
    `_val`."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return next((each for each in (snake, f"{snake}_val") if each in hints), None)


def _plugin(panel_type: str, name: str) -> Any:
    """Return the SDK's type for a panel plugin: its options, or its custom field configuration."""
    return getattr(importlib.import_module(f"grafana_foundation_sdk.models.{panel_type.replace('-', '')}"), name)
