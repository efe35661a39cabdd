"""The budget table: each row of it, with what measures it."""

from __future__ import annotations

from bench import crash, listing, replaying, serving, throughput, waiting
from bench.table import Budget, Row

__all__ = ["ROWS"]

STEPS_PER_S = "steps/s"

ROWS = [
    Row(
        name="chains",
        what="10-step chains, 50 in flight, async activities",
        measure=throughput.chains_async,
        budgets=(
            Budget(metric="steps_per_s", label=STEPS_PER_S, limit=10_000, at_least=True, digits=0),
            Budget(metric="cpu_ms_per_step", label="CPU per step, ms", limit=0.1, digits=3),
        ),
    ),
    Row(
        name="threads",
        what="the same with thread activities",
        measure=throughput.chains_in_threads,
        budgets=(
            Budget(metric="steps_per_s", label=STEPS_PER_S, limit=5_000, at_least=True, digits=0),
            Budget(metric="cpu_ms_per_step", label="CPU per step, ms", digits=3),
        ),
    ),
    Row(
        name="latency",
        what="one-activity workflow, start → result",
        measure=throughput.latency,
        budgets=(
            Budget(metric="p50_ms", label="p50, ms", limit=0.8),
            Budget(metric="p99_ms", label="p99, ms", limit=5),
        ),
    ),
    Row(
        name="fan-out-500",
        what="one workflow, 500 activities at once",
        measure=throughput.fan_out_500,
        budgets=(Budget(metric="s", label="seconds", limit=0.05, digits=3),),
    ),
    Row(
        name="fan-out-10000",
        what="one workflow, 10,000 activities at once",
        measure=throughput.fan_out_10000,
        budgets=(Budget(metric="s", label="seconds", limit=2),),
    ),
    Row(
        name="signals",
        what="signals to one workflow, 50 in flight",
        measure=throughput.signals,
        budgets=(Budget(metric="signals_per_s", label="signals/s", limit=5_000, at_least=True, digits=0),),
    ),
    Row(
        name="sleepers-10k",
        what="10,000 sleepers",
        measure=waiting.sleepers_10k,
        budgets=(
            Budget(metric="start_s", label="to start, s", limit=2),
            Budget(metric="mib_per_1000", label="memory per 1,000, MiB", limit=3),
            Budget(metric="late_p99_s", label="late p99, s", limit=0.1, digits=3),
        ),
    ),
    Row(
        name="sleepers-100k",
        what="100,000 sleepers",
        measure=waiting.sleepers_100k,
        budgets=(
            Budget(metric="start_s", label="to start, s"),
            Budget(metric="mib", label="memory in all, MiB", limit=300, digits=0),
            Budget(metric="restarted_mib", label="memory after a restart, MiB", limit=300, digits=0),
            Budget(metric="restart_s", label="restart → a new workflow done, s", limit=2),
        ),
    ),
    Row(
        name="kill",
        what="kill -9 with 500 runs in flight",
        measure=crash.kill,
        budgets=(
            Budget(metric="open_to_step_s", label="opening → first further step, s", limit=0.3),
            Budget(metric="spawn_to_step_s", label="with Python's own start, s"),
            Budget(metric="repeated", label="running steps that ran again", limit=crash.RUNS, digits=0),
            Budget(metric="completed_repeated", label="completed steps that ran again", limit=0, digits=0),
        ),
    ),
    Row(
        name="replay",
        what="replay of a 50,000-event history",
        measure=replaying.replay,
        budgets=(
            Budget(metric="events_per_s", label="events/s", limit=200_000, at_least=True, digits=0),
            Budget(metric="mib_grown", label="memory grown, 10,000th → 50,000th event, MiB", limit=5),
        ),
    ),
    Row(
        name="history-length",
        what="a step late in a history",
        measure=throughput.history_length,
        budgets=(
            Budget(metric="early_ms", label="CPU of a step after the 5th, ms", digits=3),
            Budget(metric="late_ms", label="CPU of a step after the 5,000th, ms", digits=3),
            Budget(metric="ratio", label="the latter : the former", limit=1.2),
        ),
    ),
    Row(
        name="disk",
        what="disk per 10-step workflow",
        measure=throughput.disk,
        budgets=(Budget(metric="kib_per_workflow", label="KiB", limit=6),),
    ),
    Row(
        name="idle",
        what="idle engine with 1,000 sleepers",
        measure=waiting.idle,
        budgets=(Budget(metric="cpu_percent", label="CPU, %", limit=0.1, digits=3),),
    ),
    Row(
        name="visibility",
        what="lists and counts over 1,000,000 runs",
        measure=listing.visibility,
        budgets=(
            Budget(metric="page_ms", label="page of 100: all, by status, type, start, ms", limit=10),
            Budget(metric="few_ms", label="by id, prefix, rare attribute, ms", limit=25),
            Budget(metric="many_ms", label="by common attribute, type and status, hour, ms", limit=250, digits=0),
            Budget(metric="deep_ms", label="page of 1,000 behind 20,000 others, ms", limit=50, digits=0),
            Budget(metric="counted_ms", label="count: all, by status, by type, grouped, ms", limit=1),
            Budget(metric="found_ms", label="count by rare attribute, prefix, ms", limit=10),
            Budget(metric="scanned_ms", label="count that looks at every run, ms", limit=1_000, digits=0),
            Budget(metric="write_us", label="to write a run's rows, µs"),
            Budget(metric="mib", label="database, MiB", digits=0),
        ),
    ),
    Row(
        name="served",
        what="a server and a worker process, 10-step chains, 50 in flight",
        measure=serving.served,
        budgets=(
            Budget(metric="official_server_cpu_ms", label="server CPU per activity, Temporal's SDK, ms", limit=1.5),
            Budget(metric="ours_server_cpu_ms", label="server CPU per activity, our SDK, ms"),
            Budget(metric="official_activities_per_s", label="activities/s, Temporal's SDK", digits=0),
            Budget(metric="ours_activities_per_s", label="activities/s, our SDK", digits=0),
            Budget(metric="ratio", label="the latter : the former", limit=2, at_least=True),
            Budget(metric="official_p50_ms", label="one activity, p50, Temporal's SDK, ms"),
            Budget(metric="ours_p50_ms", label="one activity, p50, our SDK, ms"),
        ),
    ),
    Row(
        name="idle-polls",
        what="a server with 2,000 long polls that wait",
        measure=serving.idle_polls,
        budgets=(
            Budget(metric="cpu_percent", label="CPU, %", limit=0.5, digits=3),
            Budget(metric="kib_per_poll", label="memory per poll, KiB"),
        ),
    ),
    Row(
        name="server-start",
        what="the development server, from its process's start to its first answer",
        measure=serving.server_start,
        budgets=(
            Budget(metric="s", label="seconds", limit=2),
            Budget(metric="cpu_s", label="CPU seconds"),
        ),
    ),
]
