"""What a queue remembers of its polls is bounded."""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.matching.watch import PollerVersions, QueueWatch


def test_the_latest_pollers_are_kept() -> None:
    watch = QueueWatch(0)
    versions = PollerVersions(m.WorkerVersionCapabilities(), m.WorkerDeploymentOptions(build_id="1"))
    for number in range(5000):
        watch.seen[f"worker-{number}"] = number
        watch.versions[f"worker-{number}"] = versions
    watch.sample(5000, 0, 0)
    assert len(watch.seen) == len(watch.versions) == 1000
    assert min(watch.seen.values()) == 4000


def test_samples_are_of_the_last_half_minute() -> None:
    watch = QueueWatch(0)
    for second in range(0, 3600, 5):
        watch.sample(second * 1000, second * 10, 0)
    rates = watch.rates(3_600_000, 36_000, 0)
    assert 9.5 < rates.add < 10.5
    assert rates == watch.rates(3_600_000, 36_000, 0)
