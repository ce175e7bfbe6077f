"""`transcript.json`: the transcript model itself. docs/transcript.schema.json describes it."""

from typing import Any

from daemon.transcript import SCHEMA_VERSION, Transcript


def render(transcript: Transcript) -> str:
    """One line of JSON: hours of words with their times make a large file, and indenting doubles it."""
    return transcript.model_dump_json() + "\n"


def json_schema() -> dict[str, Any]:
    """The public JSON Schema of the document, generated from the model."""
    schema = Transcript.model_json_schema(mode="serialization")
    _open(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:transcriptd:transcript:{SCHEMA_VERSION}",
        **schema,
        "title": "Transcript",
        "description": "What transcriptd writes to transcript.json. Times are seconds from the start of the recording, "
        "rounded to 1 ms. Every key is always present; null means unknown. Readers must ignore keys they do not know.",
    }


def _open(schema: dict[str, Any]) -> None:
    """Allow unknown keys.

    The model forbids them, to catch a producer's misspelling. The contract lets us add keys without a new version, so
    a reader who validates against the schema of today must accept the document of tomorrow.
    """
    for node in (schema, *schema["$defs"].values()):
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
