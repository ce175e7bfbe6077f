"""The Terraform module as data."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

MODULE = Path(__file__).parents[2] / "deploy" / "terraform"
IMAGE = MODULE.parent / "image"


@cache
def blocks(kind: str, module: Path = MODULE) -> dict[str, dict[str, Any]]:
    """Blocks with one label (variable, output) of a whole module, by their label."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(module.glob("*.tf")):
        with path.open() as file:
            for block in hcl2.load(file).get(kind, []):
                for label, body in block.items():
                    found[json.loads(label)] = body
    return found


def default(variable: str, module: Path = MODULE) -> Any:
    """The default of a variable whose default is a plain value. Raises KeyError if it has none."""
    return _value(blocks("variable", module)[variable]["default"])


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


def inputs_table(module: Path = MODULE) -> str:
    """The table of variables in a module's README."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, body in blocks("variable", module).items():
        shown = f"`{json.dumps(default(name, module))}`" if "default" in body else "**required**"
        rows.append(f"| `{name}` | {shown} | {_text(body['description'])} |")
    return "\n".join(rows)


def outputs_table(module: Path = MODULE) -> str:
    """The table of outputs in a module's README."""
    rows = ["| Output | Meaning |", "|---|---|"]
    rows += [f"| `{name}` | {_text(body['description'])} |" for name, body in blocks("output", module).items()]
    return "\n".join(rows)


def _text(description: str) -> str:
    """A description as one cell; of a long one, the first line: its text shows the rest."""
    if description.startswith('"<<-') or description.startswith("<<-"):
        return description.strip('"').splitlines()[1].strip()
    return str(json.loads(description)).replace("|", "\\|")
