"""The seal of an outbox message: proof that a daemon with the same webhook secret stored it.

Without it, any sender to the outbox queue could have any payload signed and sent to any receiver.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

SEAL = "seal"  # the message attribute
_PURPOSE = b"transcriptd outbox\n"  # so that a seal is never also the signature of a webhook


class Seal:
    """Seals with the last secret and accepts seals of each.

    A rotation first adds the new secret in front. Daemons that still have only the old one can then read what the others
    store.
    """

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = [secret.get_secret_value().encode() for secret in secrets]

    def attributes(self, body: str) -> dict[str, Any]:
        """Return the message attribute with the seal of a body. Without a secret there is none."""
        if not self._keys:
            return {}
        return {SEAL: {"DataType": "String", "StringValue": _mac(self._keys[-1], body)}}

    def fits(self, body: str, attributes: dict[str, Any]) -> bool:
        """Return whether the attributes of a message contain a seal of its body."""
        found = str(attributes.get(SEAL, {}).get("StringValue", ""))
        return any(hmac.compare_digest(_mac(key, body).encode(), found.encode()) for key in self._keys)


def _mac(key: bytes, body: str) -> str:
    return hmac.new(key, _PURPOSE + body.encode(), hashlib.sha256).hexdigest()
