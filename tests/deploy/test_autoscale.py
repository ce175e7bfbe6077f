"""The fleet simulation: invariants of every run, and consistency with the Terraform module."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.autoscale import DOCS, ONE_USER, THOUSAND, Prices, quantile, row
from bench.autoscale_chart import chart
from bench.fleet import HOUR, Job, Policy, Run, Sample, Simulation, World, backlog_per_instance
from daemon.config import Settings
from tests.support.deploy.module import default

DAY = 24 * HOUR

policies = st.builds(
    Policy,
    min_size=st.integers(0, 2),
    max_size=st.integers(2, 12),
    on_demand_base_capacity=st.integers(0, 3),
    mean_job_seconds=st.floats(20, 2000),
    acceptable_wait_seconds=st.floats(60, 3600),
    max_jobs_in_flight=st.integers(1, 20),
    batch_size=st.integers(1, 32),
    idle_seconds=st.floats(30, 3600),
    wake_by_steps=st.booleans(),
)
worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    cold_start_median_seconds=st.floats(30, 1200),
    spot_losses_per_instance_hour=st.just(0.0) | st.floats(0.001, 3),
    capacity=st.integers(1, 20),
)
# Arrival time of a job, its duration in seconds, its chunks.
Load = list[tuple[float, float, int]]
loads = st.lists(st.tuples(st.floats(0, 12 * HOUR), st.floats(1, 1800), st.integers(1, 100)), max_size=60)


def simulate(policy: Policy, world: World, load: Load) -> Run:
    return Simulation(policy, world).run([Job(*each) for each in sorted(load)], 10 * DAY)


@settings(max_examples=80, deadline=None)
@given(policies, worlds, loads)
def test_every_job_runs_once_and_the_fleet_stays_within_its_bounds(policy: Policy, world: World, load: Load) -> None:
    run = simulate(policy, world, load)
    work = dict(zip(map(id, run.jobs), (work for _, work, _ in sorted(load)), strict=True))
    for job in run.jobs:
        assert job.begun_at is not None
        assert job.finished_at is not None
        assert job.arrives_at <= job.begun_at
        assert job.finished_at >= job.begun_at + work[id(job)] - 1e-3
    for sample in run.samples:
        assert policy.min_size <= sample.desired <= policy.max_size
        assert sample.in_service <= min(policy.max_size, world.capacity)
        assert sample.in_flight <= sample.in_service * policy.max_jobs_in_flight
    paid_hours = run.instance_hours(spot=False) + run.instance_hours(spot=True)
    assert sum(work.values()) - 1e-3 <= run.busy_seconds <= paid_hours * HOUR + 1e-3
    assert run.interruptions == 0 or world.spot_losses_per_instance_hour > 0


def test_runs_with_one_seed_are_equal() -> None:
    load = [(number * 40.0, 200.0, 100) for number in range(100)]
    world = World(spot_losses_per_instance_hour=1)
    first, again = simulate(Policy(), world, load), simulate(Policy(), world, load)
    other = simulate(Policy(), replace(world, seed=8), load)
    assert first.samples == again.samples
    assert first.waits() == again.waits()
    assert first.waits() != other.waits()


def test_no_instance_runs_before_the_first_job_or_long_after_the_last() -> None:
    run = simulate(Policy(), World(), [(3 * HOUR, 60.0, 100)])
    (instance,) = run.instances
    assert instance.launched_at >= 3 * HOUR
    assert instance.ended_at is not None
    assert instance.ended_at == pytest.approx(run.jobs[0].finished_at or 0, abs=Policy().idle_seconds + 1)


def test_burst_starts_several_instances_at_once() -> None:
    load = [(60.0, 100.0, 100)] * 300
    wakes = simulate(Policy(), World(), load).samples
    assert next(sample.desired for sample in wakes if sample.desired) == Policy().max_size
    cautious = simulate(Policy(wake_by_steps=False), World(), load)
    assert next(sample.desired for sample in cautious.samples if sample.desired) == 1


@pytest.mark.parametrize(
    ("chunks", "held"), [(1, 16), (3, 11), (16, 2), (720, 2)], ids=["clips", "short", "a batch", "6 h"]
)
def test_instance_holds_enough_jobs_to_fill_its_batches(chunks: int, held: int) -> None:
    run = simulate(Policy(max_size=1), World(), [(60.0, 100.0, chunks)] * 100)
    assert max(sample.in_flight for sample in run.samples) == held


def test_no_backlog_exceeds_max_size() -> None:
    run = simulate(Policy(max_size=3), World(), [(60.0, 100.0, 100)] * 500)
    assert max(sample.desired for sample in run.samples) == 3
    assert run.peak_instances == 3


def test_metric_is_defined_at_zero_instances_and_without_data() -> None:
    assert backlog_per_instance(Sample(0, 12, 0, 0, 0)) == 12
    assert backlog_per_instance(Sample(0, 12, 0, 4, 4)) == 3
    assert backlog_per_instance(Sample(0, None, 0, 4, 4)) is None


def test_defaults_are_those_of_the_module_and_the_daemon() -> None:
    policy = Policy()
    for name in (
        "min_size",
        "max_size",
        "on_demand_base_capacity",
        "mean_job_seconds",
        "acceptable_wait_seconds",
        "max_jobs_in_flight",
    ):
        assert getattr(policy, name) == default(name), name
    assert policy.max_jobs_in_flight == Settings.model_fields["max_jobs_in_flight"].default


def test_page_matches_the_simulation() -> None:
    """The small scenarios only; the large ones take minutes."""
    page = (DOCS / "capacity.md").read_text()
    for scenario in (ONE_USER, THOUSAND):
        run, audio_hours = scenario.run()
        assert row(scenario, run, audio_hours, Prices()) in page, "run make autoscale"
        assert chart(scenario.title, run.samples) == (DOCS / f"capacity-{scenario.name}.svg").read_text()


def test_quantiles_are_values_that_occurred() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0.0, 0.5, 0.51, 1.0)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
