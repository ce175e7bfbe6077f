"""The attributes of a dead letter: nothing of the original is lost, and SQS accepts the copy whatever its size and
attributes."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from daemon.aws.dead_letter import (
    MAX_MESSAGE_ATTRIBUTES,
    MAX_MESSAGE_BYTES,
    OLDER_MESSAGE_BYTES,
    OURS,
    attributes_of_copy,
    message_bytes,
    original_attributes,
    parse_failure,
    shortened,
)
from tests.support.aws.dead_letters import more_of

FAILURE = {"code": "invalid_json", "traceback": 'File "a.py"\n' * 600, "original_message_id": "m-1"}

# Everything SQS accepts:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_MessageAttributeValue.html
ALPHABET = st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufffe\uffff")
NAMES = st.one_of(
    st.sampled_from([*OURS, "errorcode", "traceparent", "Fаilure"]),  # the last one contains a Cyrillic letter
    st.text(ALPHABET, min_size=1, max_size=256),
)
TYPES = st.sampled_from(["", ".foo", ".json", ".ünï", "." + "x" * 200])
LONG = st.sampled_from(["a", "ü", '"', "\n", "\u202e", "語"]).flatmap(
    lambda letter: st.integers(1, 60_000).map(lambda times: letter * times)
)
VALUES = st.one_of(
    st.builds(
        lambda kind, suffix, text: {"DataType": kind + suffix, "StringValue": text},
        st.sampled_from(["String", "Number"]),
        TYPES,
        st.text(ALPHABET, min_size=1) | LONG,
    ),
    st.builds(
        lambda suffix, data: {"DataType": "Binary" + suffix, "BinaryValue": data},
        TYPES,
        st.binary(min_size=1) | st.integers(1, 60_000).map(bytes),
    ),
)
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=MAX_MESSAGE_ATTRIBUTES)
TEN: dict[str, Any] = {f"a{number}": {"DataType": "Binary", "BinaryValue": bytes([number])} for number in range(10)}


def most_bytes_in_failure(attributes: dict[str, Any]) -> int:
    """Return the most bytes that attributes can take in Failure. JSON needs up to six bytes for one of theirs."""
    sizes = {name: message_bytes("", {name: value}) for name, value in attributes.items()}
    theirs = sorted(size for name, size in sizes.items() if name not in OURS)
    moved = theirs[: max(0, len(theirs) + len(OURS) - MAX_MESSAGE_ATTRIBUTES)]
    return sum(100 + 6 * size for size in [*moved, *(size for name, size in sizes.items() if name in OURS)])


@given(ATTRIBUTES, st.sampled_from([OLDER_MESSAGE_BYTES, MAX_MESSAGE_BYTES]), st.none() | st.integers(0, 20_000))
@example(TEN, OLDER_MESSAGE_BYTES, None)
@example(TEN, OLDER_MESSAGE_BYTES, 0)
@example({"ErrorCode": TEN["a0"], "Failure": TEN["a1"]}, MAX_MESSAGE_BYTES, None)
def test_nothing_is_lost_and_everything_fits(attributes: dict[str, Any], limit: int, room: int | None) -> None:
    """`room` is the number of bytes that the original leaves below the limit; None: it is small."""
    body = "{}" if room is None else "x" * (limit - room - message_bytes("", attributes))
    if message_bytes(body, attributes) > limit:
        return  # SQS would not have accepted the original
    copy = attributes_of_copy(body, attributes, FAILURE)
    assert len(copy) <= MAX_MESSAGE_ATTRIBUTES
    assert message_bytes(body, copy) <= limit
    if copy == attributes:
        left = limit - message_bytes(body, attributes)
        assert left < 1_000 + most_bytes_in_failure(attributes), "the reason is omitted only if it does not fit"
        return
    assert copy["ErrorCode"] == {"DataType": "String", "StringValue": "invalid_json"}
    assert {name: value for name, value in copy.items() if name not in OURS} | more_of(copy) == attributes
    assert original_attributes(copy) == attributes


def test_traceback_is_dropped_first() -> None:
    for room, said in ((12_000, True), (1_000, False)):
        copy = attributes_of_copy("x" * (OLDER_MESSAGE_BYTES - room), {}, FAILURE)
        assert bool(json.loads(copy["Failure"]["StringValue"])["traceback"]) == said


def test_redriven_dead_letter_has_the_new_reason_and_all_original_attributes() -> None:
    first = attributes_of_copy("{}", TEN, FAILURE)
    again = attributes_of_copy("{}", first, {**FAILURE, "code": "object_missing"})
    assert again["ErrorCode"]["StringValue"] == "object_missing"
    assert {name: value for name, value in again.items() if name not in OURS} | more_of(again) == TEN


def test_value_that_cannot_be_sent_is_omitted() -> None:
    """SQS never delivers such a value; if it did, every attempt to send the copy would fail."""
    empty: dict[str, Any] = {"a": {"DataType": "String", "StringValue": ""}, "b": {"DataType": "Binary"}}
    assert set(attributes_of_copy("{}", empty, FAILURE)) == set(OURS)


def test_attributes_that_only_resemble_ours_are_unchanged() -> None:
    ours = {"code": "c", "original_message_id": "m"}
    for said in ("[]", '{"code": 1}', json.dumps({**ours, "more_attributes": []}), "[" * 100_000, json.dumps(ours)):
        attributes = {"Failure": {"DataType": "String", "StringValue": said}}
        assert parse_failure(attributes) is None
        assert original_attributes(attributes) == attributes
    for more in ({"a": 1}, {"a": {"BinaryValue": 1}}, {"a": {"BinaryValue": "!"}}):
        forged = {"Failure": {"DataType": "String", "StringValue": json.dumps({**ours, "more_attributes": more})}}
        assert original_attributes(forged) == forged


@given(
    ATTRIBUTES,
    st.text(ALPHABET | st.just("\ud83d"), max_size=50),
    st.sampled_from([OLDER_MESSAGE_BYTES, MAX_MESSAGE_BYTES]),
)
def test_shortened_dead_letter_states_its_reason_within_the_limit(
    attributes: dict[str, Any], start: str, limit: int
) -> None:
    body, copy = shortened(start + "語" * limit, attributes, FAILURE, limit)
    assert limit - 3 < message_bytes(body, copy) <= limit
    failure = parse_failure(copy)
    assert failure is not None
    assert failure["code"] == FAILURE["code"]
    assert failure["body_bytes"] == message_bytes(start, {}) + 3 * limit
    assert set(failure["dropped_attributes"]) == set(attributes) - set(OURS)
