"""The delivery log: attempts and crashes are distinguished from interruptions."""

from daemon.jobs.delivery_log import MAX_DELIVERIES, MAX_MESSAGE_CHARS, DeliveryLog, DeliveryRecord


def delivery(receive_count: int) -> DeliveryRecord:
    return DeliveryRecord(message_id="m", receive_count=receive_count, worker_id="w")


def test_only_failures_of_the_job_count_as_attempts() -> None:
    history = DeliveryLog()
    for number, (outcome, consumes_attempt) in enumerate(
        [("released", False), ("retried", True), ("abandoned", False), ("retried", False)], 1
    ):
        history = history.begin(delivery(number)).end("m", number, outcome, "r", consumes_attempt=consumes_attempt)
    assert history.attempts("m") == 1
    assert history.crashed_deliveries("m") == 0


def test_delivery_without_an_outcome_counts_as_crashed() -> None:
    history = (
        DeliveryLog()
        .begin(delivery(1))
        .begin(delivery(2))
        .end("m", 2, "released", "interrupted", consumes_attempt=False)
    )
    assert history.crashed_deliveries("m") == 1


def test_another_message_resets_the_log() -> None:
    history = (
        DeliveryLog()
        .begin(delivery(1))
        .end("m", 1, "retried", "runner_crashed", consumes_attempt=True)
        .begin(delivery(2))
    )
    assert (history.attempts("redriven"), history.crashed_deliveries("redriven")) == (0, 0)


def test_end_without_a_start_changes_nothing() -> None:
    assert DeliveryLog().end("m", 1, "retried", "r", consumes_attempt=True) == DeliveryLog()


def test_log_is_bounded_and_round_trips() -> None:
    history = DeliveryLog()
    for number in range(MAX_DELIVERIES + 50):
        history = history.begin(delivery(number))
    assert len(history.deliveries) == MAX_DELIVERIES
    assert DeliveryLog.model_validate_json(history.model_dump_json()) == history


def test_entry_written_twice_is_one_delivery() -> None:
    first, second = delivery(1), delivery(2)
    history = DeliveryLog().begin(first).begin(second).begin(second)
    assert history.deliveries == (first, second)
    assert history.before(second).deliveries == (first,)


def test_failure_messages_are_bounded() -> None:
    history = DeliveryLog().begin(delivery(1)).end("m", 1, "retried", "r", message="x" * 10_000, consumes_attempt=True)
    assert history.deliveries[0].message == "x" * MAX_MESSAGE_CHARS


def test_interruption_is_no_crash_and_a_later_outcome_replaces_it() -> None:
    interrupted = DeliveryLog().begin(delivery(1)).interrupt("m", 1)
    assert (interrupted.crashed_deliveries("m"), interrupted.attempts("m")) == (0, 0)
    failed = interrupted.end("m", 1, "retried", "runner_crashed", consumes_attempt=True)
    assert failed.attempts("m") == 1
    assert failed.interrupt("m", 1) == failed, "a recorded outcome stays"
    assert DeliveryLog().interrupt("m", 1) == DeliveryLog()
