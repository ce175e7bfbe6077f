"""The Terraform module as data."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

MODULE = Path(__file__).parents[3] / "deploy" / "terraform"
IMAGE = MODULE.parent / "image"


@cache
def blocks(kind: str, module: Path = MODULE) -> dict[str, dict[str, Any]]:
    """Return the blocks with one label (variable, output) of the whole module, by label."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(module.glob("*.tf")):
        with path.open() as file:
            for block in hcl2.load(file).get(kind, []):
                for label, body in block.items():
                    found[json.loads(label)] = body
    return found


def default(variable: str, module: Path = MODULE) -> Any:
    """Return the default of a variable whose default is a plain value. Raise KeyError if it has none."""
    return _value(blocks("variable", module)[variable]["default"])


def optional_number(variable: str, attribute: str) -> float:
    """Return the default of a number within an object variable. Raise LookupError if there is none."""
    found = re.search(rf"\b{attribute} = optional\(number, (\d+)\)", blocks("variable")[variable]["type"])
    if found is None:
        raise LookupError(f"var.{variable} has no number {attribute} with a default")
    return float(found[1])


def _value(parsed: Any) -> Any:
    """Strip the quotes that hcl2 keeps around a value."""
    if isinstance(parsed, list):
        return [_value(item) for item in parsed]
    if isinstance(parsed, dict):
        return {name: _value(item) for name, item in parsed.items()}
    return json.loads(parsed) if isinstance(parsed, str) and parsed.startswith('"') else parsed


def inputs_table(module: Path = MODULE) -> str:
    """Return the table of variables from a module's README."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, body in blocks("variable", module).items():
        shown = f"`{json.dumps(default(name, module))}`" if "default" in body else "**required**"
        rows.append(f"| `{name}` | {shown} | {_text(body['description'])} |")
    return "\n".join(rows)


def outputs_table(module: Path = MODULE) -> str:
    """Return the table of outputs from a module's README."""
    rows = ["| Output | Meaning |", "|---|---|"]
    rows += [f"| `{name}` | {_text(body['description'])} |" for name, body in blocks("output", module).items()]
    return "\n".join(rows)


def _text(description: str) -> str:
    """Format a description as one table cell; only the first line of a long one, because the README's text covers the
    rest."""
    if description.startswith('"<<-') or description.startswith("<<-"):
        return description.strip('"').splitlines()[1].strip()
    return str(json.loads(description)).replace("|", "\\|")
