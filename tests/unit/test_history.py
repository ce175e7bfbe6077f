"""The record of deliveries: attempts and crashes are told apart from interruptions."""

from daemon.history import MAX_DELIVERIES, MAX_MESSAGE_CHARS, Delivery, History


def delivery(receive_count: int) -> Delivery:
    return Delivery(message_id="m", receive_count=receive_count, worker_id="w")


def test_only_failures_of_the_jobs_own_are_attempts() -> None:
    history = History()
    for number, (outcome, counts) in enumerate(
        [("released", False), ("retried", True), ("abandoned", False), ("retried", False)], 1
    ):
        history = history.begin(delivery(number)).end("m", number, outcome, "r", counts=counts)
    assert history.attempts("m") == 1
    assert history.unexplained("m") == 0


def test_a_delivery_that_never_ended_is_unexplained() -> None:
    history = History().begin(delivery(1)).begin(delivery(2)).end("m", 2, "released", "interrupted", counts=False)
    assert history.unexplained("m") == 1


def test_another_message_starts_anew() -> None:
    history = History().begin(delivery(1)).end("m", 1, "retried", "runner_crashed", counts=True).begin(delivery(2))
    assert (history.attempts("redriven"), history.unexplained("redriven")) == (0, 0)


def test_the_end_of_what_was_never_begun_changes_nothing() -> None:
    assert History().end("m", 1, "retried", "r", counts=True) == History()


def test_the_record_is_bounded_and_survives_its_json() -> None:
    history = History()
    for number in range(MAX_DELIVERIES + 50):
        history = history.begin(delivery(number))
    assert len(history.deliveries) == MAX_DELIVERIES
    assert History.model_validate_json(history.model_dump_json()) == history


def test_a_note_that_is_written_twice_is_one_delivery() -> None:
    first, second = delivery(1), delivery(2)
    history = History().begin(first).begin(second).begin(second)
    assert history.deliveries == (first, second)
    assert history.before(second).deliveries == (first,)


def test_the_words_of_a_failure_are_bounded() -> None:
    history = History().begin(delivery(1)).end("m", 1, "retried", "r", message="x" * 10_000, counts=True)
    assert history.deliveries[0].message == "x" * MAX_MESSAGE_CHARS
