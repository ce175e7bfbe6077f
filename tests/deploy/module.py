"""The Terraform module as data."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

MODULE = Path(__file__).parents[2] / "deploy" / "terraform"


@cache
def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """Blocks with one label (variable, output) of the whole module, by their label."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(MODULE.glob("*.tf")):
        with path.open() as file:
            for block in hcl2.load(file).get(kind, []):
                for label, body in block.items():
                    found[json.loads(label)] = body
    return found


def default(variable: str) -> Any:
    """The default of a variable whose default is a plain value. Raises KeyError if it has none."""
    return _value(blocks("variable")[variable]["default"])


def optional_number(variable: str, attribute: str) -> float:
    """The default of a number in a variable that is an object. Raises LookupError if there is none."""
    found = re.search(rf"\b{attribute} = optional\(number, (\d+)\)", blocks("variable")[variable]["type"])
    if found is None:
        raise LookupError(f"var.{variable} has no number {attribute} with a default")
    return float(found[1])


def _value(parsed: Any) -> Any:
    """What hcl2 read, with its quotes taken off."""
    if isinstance(parsed, list):
        return [_value(item) for item in parsed]
    return json.loads(parsed) if isinstance(parsed, str) and parsed.startswith('"') else parsed


def inputs_table() -> str:
    """The table of variables in the module's README."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, body in blocks("variable").items():
        shown = f"`{json.dumps(default(name))}`" if "default" in body else "**required**"
        rows.append(f"| `{name}` | {shown} | {_text(body['description'])} |")
    return "\n".join(rows)


def outputs_table() -> str:
    """The table of outputs in the module's README."""
    rows = ["| Output | Meaning |", "|---|---|"]
    rows += [f"| `{name}` | {_text(body['description'])} |" for name, body in blocks("output").items()]
    return "\n".join(rows)


def _text(description: str) -> str:
    """A description as one cell; of a long one, the first line: its text shows the rest."""
    if description.startswith('"<<-') or description.startswith("<<-"):
        return description.strip('"').splitlines()[1].strip()
    return str(json.loads(description)).replace("|", "\\|")
