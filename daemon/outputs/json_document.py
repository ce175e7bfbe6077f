"""`transcript.json`: the transcript model itself. docs/transcript.schema.json describes it."""

from typing import Any

from daemon.schema.transcript import SCHEMA_VERSION, Transcript


def render(transcript: Transcript) -> str:
    """Render one line of JSON. Hours of timed words make a large file, and indentation would double it."""
    return transcript.model_dump_json() + "\n"


def json_schema() -> dict[str, Any]:
    """Generate the document's public JSON Schema from the model."""
    schema = Transcript.model_json_schema(mode="serialization")
    _open(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:transcriptd:transcript:{SCHEMA_VERSION}",
        **schema,
        "title": "Transcript",
        "description": "Contents of transcript.json. Times are in seconds from the start of the recording, rounded to "
        "1 ms. Every key is always present; null means unknown. Readers must ignore unknown keys.",
    }


def _open(schema: dict[str, Any]) -> None:
    """Allow unknown keys.

    The model forbids them to catch misspelled keys in this code. The contract allows new keys without a new version, so
    documents of later releases must validate against today's schema.
    """
    for node in (schema, *schema["$defs"].values()):
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
