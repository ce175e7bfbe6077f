"""Read back the original message from a dead letter."""

import base64
import json
from typing import Any


def more_of(copy: dict[str, Any]) -> dict[str, Any]:
    """Return the original message attributes stored in the `Failure` attribute."""
    carried = json.loads(copy["Failure"]["StringValue"])["more_attributes"]
    return {
        name: {part: base64.b64decode(text) if part == "BinaryValue" else text for part, text in value.items()}
        for name, value in carried.items()
    }
