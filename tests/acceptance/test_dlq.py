"""`transcriptd dlq` against a dead-letter queue: no message is hidden or lost, and none is deleted by mistake."""

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from bench.world import World, open_world
from daemon.aws.dead_letter import attributes_of_copy
from daemon.demo.recordings import sample_call
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Moment
from tests.support.command_line import TIMEOUT_SECONDS, run_tool, start_tool

TRACE: dict[str, Any] = {"trace": {"DataType": "String", "StringValue": "abc"}}
TEN: dict[str, Any] = {f"a{number}": {"DataType": "Binary", "BinaryValue": bytes([number])} for number in range(10)}


@pytest.fixture(scope="module")
def module_world() -> Iterator[World]:
    with open_world(retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture
def world(module_world: World) -> World:
    """A world with new queues, so that messages an earlier test left in flight do not reappear here."""
    aws = module_world.aws
    aws.queue_url, aws.dlq_url = (
        aws.sqs.create_queue(QueueName=f"{kind}-{uuid.uuid4().hex}")["QueueUrl"] for kind in ("jobs", "dead")
    )
    return module_world


def body_of(job_id: str, **options: Any) -> str:
    return json.dumps({"job_id": job_id, "input": {"bucket": "media", "key": "call.wav"}, "options": options})


def bury(world: World, body: str, code: str | None = "object_missing", attributes: Any = None, **failure: Any) -> str:
    """Put a message into the dead-letter queue as the daemon does, or, without a code, as another sender would. Return
    its ID."""
    copy = attributes or {}
    if code is not None:
        record = {"code": code, "message": f"{code} it was", "traceback": "Traceback: here\n", "attempt": 2}
        record |= {"worker_id": "w-1", "original_message_id": "o-1", "failed_at": "2026-11-22T13:24:05Z", **failure}
        copy = attributes_of_copy(body, copy, record)
    sent = world.aws.sqs.send_message(QueueUrl=world.aws.dlq_url, MessageBody=body, MessageAttributes=copy)
    return str(sent["MessageId"])


def counts(world: World, url: str) -> tuple[int, int]:
    """Return the numbers of visible and in-flight messages."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found: Any = world.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])


def taken(world: World, url: str) -> list[dict[str, Any]]:
    """Receive and delete all visible messages of a queue."""
    found: list[dict[str, Any]] = []
    while messages := world.aws.sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
    ).get("Messages"):
        for message in messages:
            found.append({**message})
            world.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def jobs_of(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(json.loads(message["Body"])["job_id"] for message in messages)


def dlq(world: World, *words: str, typed: str = "", **variables: str) -> Any:
    return run_tool({**world.aws.environment, **variables}, "dlq", *words, typed=typed)


# --- with the real daemon -------------------------------------------------------------------------------------------


def test_dead_letter_is_listed_shown_fixed_and_completes(world: World) -> None:
    world.publish("mend", "call.wav", options={"initial_prompt": "raise"})
    with world.daemon(max_attempts="1"):
        world.wait_for("mend", "job.failed")
        world.wait_until_empty()
        listed = dlq(world, "list", "--reason", "internal_error", "--json")
        assert listed.returncode == 0, listed.stderr
        (entry,) = map(json.loads, listed.stdout.splitlines())
        assert (entry["job_id"], entry["reason"], entry["attempt"]) == ("mend", "internal_error", 1)
        assert entry["message"] == "ValueError: scripted failure"
        table = dlq(world, "list", "--job", "mend").stdout
        assert "internal_error" in table
        assert entry["message_id"][:8] in table
        shown = dlq(world, "show", "mend").stdout
        assert '"initial_prompt": "raise"' in shown
        assert "raise ValueError(" in shown, "the traceback"
        mended = dlq(world, "redrive", "mend", "--set", "options.initial_prompt=null")
        assert mended.returncode == 0, mended.stderr
        world.wait_for("mend", "job.completed")
        world.wait_until_empty()
    assert counts(world, world.aws.dlq_url) == (0, 0)


def test_the_attempts_of_a_redriven_message_start_anew(world: World) -> None:
    world.publish("anew", "call.wav", options={"initial_prompt": "raise"})
    with world.daemon(max_attempts="2"):
        world.wait_for("anew", "job.failed")
        world.wait_until_empty()
        redriven = dlq(world, "redrive", "--reason", "internal_error")
        assert redriven.returncode == 0, redriven.stderr
        assert "attempt count reset" in redriven.stderr
        world.wait_until_empty()
    (letter,) = world.dead_letters()
    assert letter["failure"]["attempt"] == 2, "the message has two attempts again"
    deliveries = json.loads(world.outputs("anew")["checkpoints/deliveries.json"])["deliveries"]
    assert [each["outcome"] for each in deliveries] == ["retried", "dead_lettered"] * 2
    assert len({each["message_id"] for each in deliveries}) == 2


# --- list and show --------------------------------------------------------------------------------------------------


def test_foreign_messages_are_shown_and_nothing_stays_hidden(world: World) -> None:
    bury(world, body_of("known"))
    bury(world, "garbage \x85\u202e \u009b31m", code=None)
    bury(world, body_of("plain"), code=None, attributes=TRACE)
    bury(world, "[1]", code=None, attributes={"Failure": {"DataType": "String", "StringValue": '{"code": 7}'}})
    listed = dlq(world, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    entries = [json.loads(line) for line in listed.stdout.splitlines()]
    reasons = sorted((str(entry["job_id"]), entry["reason"]) for entry in entries)
    assert reasons == [
        ("None", "no-reason"),
        ("None", "no-reason"),
        ("known", "object_missing"),
        ("plain", "no-reason"),
    ]
    assert counts(world, world.aws.dlq_url) == (4, 0), "released at once"
    for entry in entries:
        shown = dlq(world, "show", entry["message_id"])
        assert shown.returncode == 0, shown.stderr
        assert not set("\x85\u202e\u009b") & set(shown.stdout), "no control characters"
    assert dlq(world, "list").stdout.count("no-reason") == 3


def test_listing_reports_what_it_did_not_see(world: World) -> None:
    for number in range(3):
        bury(world, body_of(f"j{number}"))
    world.aws.sqs.receive_message(QueueUrl=world.aws.dlq_url, MaxNumberOfMessages=1, VisibilityTimeout=600)
    listed = dlq(world, "list", "--json")
    assert len(listed.stdout.splitlines()) == 2
    assert "the queue has about 3, 1 of them held by other consumers" in listed.stderr
    limited = dlq(world, "list", "--limit", "1")
    assert "--limit 1 reached" in limited.stderr


def test_only_the_queue_url_is_needed(world: World) -> None:
    bury(world, body_of("one"))
    aws = {name: value for name, value in world.aws.environment.items() if name.startswith("AWS_")}
    assert run_tool(aws, "dlq", "list", "--dlq-url", world.aws.dlq_url).returncode == 0
    lost = run_tool(aws, "dlq", "list")
    assert lost.returncode == 2
    assert "TRANSCRIPTD_DLQ_URL is not set" in lost.stderr
    absent = run_tool(aws, "dlq", "list", "--dlq-url", world.aws.dlq_url + "-none")
    assert absent.returncode == 4
    assert "Traceback" not in absent.stderr


def test_unknown_id_is_reported(world: World) -> None:
    bury(world, body_of("one"))
    for action in ("show", "redrive", "purge"):
        done = dlq(world, action, "none")
        assert done.returncode == 1
        assert "none not found: 1 of about 1" in done.stderr
    assert counts(world, world.aws.dlq_url) == (1, 0)


# --- redrive --------------------------------------------------------------------------------------------------------


def test_redriven_message_is_the_original(world: World) -> None:
    body = ' {"job_id": "exact",  "input": {"bucket":"media", "key":"call.wav"}}'
    bury(world, body, attributes=TEN)
    bury(world, body_of("other"), code="no_audio_stream")
    done = dlq(world, "redrive", "--reason", "object_missing")
    assert done.returncode == 0, done.stderr
    (sent,) = taken(world, world.aws.queue_url)
    assert sent["Body"] == body
    assert sent["MessageAttributes"] == TEN
    assert jobs_of(taken(world, world.aws.dlq_url)) == ["other"]


def test_message_that_sqs_rejects_does_not_block_others(world: World) -> None:
    bury(world, body_of("first"))
    bury(world, body_of("last"))
    forged = {"code": "c", "original_message_id": "m", "more_attributes": {"a": {"StringValue": "has no type"}}}
    attributes = {"Failure": {"DataType": "String", "StringValue": json.dumps(forged)}}
    bury(world, body_of("bad"), code=None, attributes=attributes)
    done = dlq(world, "redrive", "--all", "--rate", "1000")
    assert done.returncode == 1, done.stderr
    assert "not redriven: rejected by SQS" in done.stderr
    assert "2 of 3 redriven" in done.stderr
    assert jobs_of(taken(world, world.aws.queue_url)) == ["first", "last"]
    assert jobs_of(taken(world, world.aws.dlq_url)) == ["bad"]


def test_dry_run_sends_nothing(world: World) -> None:
    bury(world, body_of("dry"))
    done = dlq(world, "redrive", "--all", "--dry-run", "--set", "options.subtitles.max_lines=1")
    assert done.returncode == 0, done.stderr
    assert '"subtitles": {"max_lines": 1}' in done.stdout
    assert counts(world, world.aws.queue_url) == (0, 0)
    assert counts(world, world.aws.dlq_url) == (1, 0)


def test_edit_that_the_daemon_would_reject_sends_nothing(world: World) -> None:
    bury(world, body_of("a"))
    bury(world, body_of("b", diarise=True), code="unknown_field")
    wrong = dlq(world, "redrive", "--all", "--set", "options.model=large-v9")
    assert wrong.returncode == 2
    assert 'did you mean "large-v' in wrong.stderr
    half = dlq(world, "redrive", "--all", "--set", "options.diarize=true")
    assert half.returncode == 2, "one of the two fields is still misspelt"
    assert 'did you mean "diarize"?' in half.stderr
    assert counts(world, world.aws.queue_url) == (0, 0)
    assert counts(world, world.aws.dlq_url) == (2, 0)
    mended = dlq(world, "redrive", "b", "--unset", "options.diarise", "--set", "options.diarize=true")
    assert mended.returncode == 0, mended.stderr
    (sent,) = taken(world, world.aws.queue_url)
    assert json.loads(sent["Body"])["options"] == {"diarize": True}


@pytest.mark.parametrize("words", [(), ("a", "--all"), ("--all", "--reason", "x"), ("a", "--older-than", "1s")])
def test_ambiguous_selection_is_rejected(world: World, words: tuple[str, ...]) -> None:
    bury(world, body_of("a"))
    for action in ("redrive", "purge"):
        assert dlq(world, action, *words).returncode == 2
    assert counts(world, world.aws.dlq_url) == (1, 0)


def test_kill_between_send_and_delete_leaves_a_duplicate_never_a_loss(world: World) -> None:
    for name in "abc":
        bury(world, body_of(name))
    redriving: list[subprocess.Popen[str]] = []
    with Proxy(world.aws.endpoint_url, ["tool"], lambda _: redriving[0].kill()) as proxy:
        proxy.trap("sqs:SendMessage", Moment.AFTER, skip=1)
        variables = {**world.aws.environment, "AWS_ENDPOINT_URL": proxy.urls["tool"]}
        with start_tool(variables, "dlq", "redrive", "a", "b", "c", "--rate", "1") as process:
            redriving.append(process)
            process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == -signal.SIGKILL
    sent = jobs_of(taken(world, world.aws.queue_url))
    assert sent == ["a", "b"]
    assert sum(counts(world, world.aws.dlq_url)) == 2, "b, which is there twice now, and c"


def test_ctrl_c_stops_after_the_current_message(world: World) -> None:
    names = [f"j{number}" for number in range(4)]
    for name in names:
        bury(world, body_of(name))
    with start_tool(world.aws.environment, "dlq", "redrive", "--all", "--rate", "0.01") as process:
        assert process.stdout
        assert "sent as" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130, said
    assert "1 of 4 redriven" in said
    assert counts(world, world.aws.dlq_url) == (3, 0), "released at once"
    sent, left = taken(world, world.aws.queue_url), taken(world, world.aws.dlq_url)
    assert sorted(jobs_of(sent) + jobs_of(left)) == names


# --- purge ----------------------------------------------------------------------------------------------------------


def test_purge_asks_for_the_number(world: World) -> None:
    for name in "ab":
        bury(world, body_of(name))
    for typed in ("", "y\n", "3\n"):
        refused = dlq(world, "purge", "--all", typed=typed)
        assert refused.returncode == 1
        assert "This deletes 2 permanently" in refused.stderr
        assert counts(world, world.aws.dlq_url) == (2, 0)
    assert dlq(world, "purge", "--all", typed="2\n").returncode == 0
    assert counts(world, world.aws.dlq_url) == (0, 0)


@pytest.mark.parametrize("words", [("purge", "--all"), ("list",)])
def test_ctrl_c_releases_everything(world: World, words: tuple[str, ...]) -> None:
    bury(world, body_of("kept"))
    # The message is counted but not received, so the listing keeps looking for it.
    world.aws.sqs.send_message(QueueUrl=world.aws.dlq_url, MessageBody="later", DelaySeconds=900)
    with start_tool(world.aws.environment, "dlq", *words) as process:
        if words == ("list",):
            until = time.monotonic() + TIMEOUT_SECONDS
            while counts(world, world.aws.dlq_url) != (0, 1):
                assert time.monotonic() < until
                time.sleep(0.02)
        else:
            assert process.stderr
            while "× object_missing" not in process.stderr.readline():
                pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == (130 if words == ("list",) else 1), said
    assert ("stopped before all were read" if words == ("list",) else "nothing was deleted") in said
    assert counts(world, world.aws.dlq_url) == (1, 0)


def test_messages_that_arrive_during_the_confirmation_stay(world: World) -> None:
    bury(world, body_of("old"))
    with start_tool(world.aws.environment, "dlq", "purge", "--all") as process:
        assert process.stderr
        assert "1 selected" in process.stderr.readline()
        bury(world, body_of("new"))
        process.communicate("1\n", timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert jobs_of(taken(world, world.aws.dlq_url)) == ["new"]


def test_purge_by_reason_and_age(world: World) -> None:
    bury(world, body_of("kept"), code="out_of_memory")
    bury(world, body_of("gone"))
    young = dlq(world, "purge", "--older-than", "7d", "--yes")
    assert young.returncode == 0
    assert "0 of 0 deleted" in young.stderr
    assert dlq(world, "purge", "--reason", "object_missing", "--older-than", "0s", "--yes").returncode == 0
    assert jobs_of(taken(world, world.aws.dlq_url)) == ["kept"]
