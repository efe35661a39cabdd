"""The `perdure` command, as a user meets it: results on stdout, one clear line on stderr, never a traceback."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from perdure.cli.demo.orders import COLUMNS
from tests.acceptance.conftest import Perdure

ORDER = '{"id": "A1", "amount": 5}'


def test_version(perdure: Perdure) -> None:
    assert perdure("--version").stdout.startswith("perdure 0.")


def test_help_names_the_commands(perdure: Perdure) -> None:
    shown = perdure("--help").stdout
    assert all(command in shown for command in ("demo", "run", "list", "show"))


def test_run_list_show(perdure: Perdure) -> None:
    done = perdure("run", "shop.py:fulfil", "--input", ORDER, "--id", "A1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["charging 5", '"receipt A1"']

    listed = perdure("list", "--json")
    assert [json.loads(line)["status"] for line in listed.stdout.splitlines()] == ["completed"]
    assert "fulfil" in perdure("list").stdout

    shown = perdure("show", "A1")
    assert "ActivityTaskScheduled" in shown.stdout
    assert "receipt A1" in shown.stdout
    document = json.loads(perdure("show", "A1", "--json").stdout)
    assert [event["eventType"] for event in document["events"]][-1] == "EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED"


def test_the_same_id_again_is_the_same_work(perdure: Perdure) -> None:
    perdure("run", "shop.py:fulfil", "--input", ORDER, "--id", "A1")
    again = perdure("run", "shop.py:fulfil", "--input", ORDER, "--id", "A1")
    assert again.stdout.splitlines() == ['"receipt A1"']
    assert "already ended" in again.stderr


def test_input_from_a_file(perdure: Perdure, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text(ORDER)
    assert perdure("run", "shop.py:fulfil", "--input", "@order.json").returncode == 0


def test_a_failed_workflow(perdure: Perdure) -> None:
    done = perdure("run", "shop.py:fulfil", "--input", '{"id": "A1", "amount": -1}')
    assert done.returncode == 1
    assert "the amount is negative" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_can_be_filtered(perdure: Perdure) -> None:
    perdure("run", "shop.py:fulfil", "--input", ORDER, "--id", "A1")
    assert perdure("list", "--json", "--query", "ExecutionStatus='Running'").stdout == ""
    assert "A1" in perdure("list", "--json", "--query", "WorkflowId='A1'").stdout


BAD = [
    (("run", "none.py:fulfil"), "there is no file"),
    (("run", "shop.txt:fulfil"), "there is no file"),
    (("run", "shop.py:nothing"), "has no workflow 'nothing'"),
    (("run", "shop.py"), "several workflows: fulfil, slow"),
    (("run", "shop.py:fulfil", "--input", "{"), "--input is not JSON"),
    (("run", "shop.py:fulfil", "--input", "@none.json"), "none.json can't be read"),
    (("run", "shop.py:fulfil"), "takes 1 argument"),
    (("run", "shop.py:fulfil", "--input", "1", "--input", "2"), "takes 1 argument"),
    (("run", "shop.py:fulfil", "--input", '{"id": 1}'), "argument 'order'"),
    (("run", "shop.py:fulfil", "--input", ORDER, "--id", "x" * 1001), "1000"),
    (("run", "shop.py:fulfil", "--input", ORDER, "--db", "none/such/folder.db"), "does not exist"),
    (("list", "--db", "none.db"), "there is no database"),
    (("show", "A1", "--db", "none.db"), "there is no database"),
    (("demo", "--orders", "none.csv"), "can't be read"),
    (("demo", "--orders", "shop.py"), "lacks the column"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments)[:40] for arguments, _ in BAD])
def test_bad_input(perdure: Perdure, arguments: tuple[str, ...], message: str) -> None:
    done = perdure(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_a_file_that_fails_to_import(perdure: Perdure, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import perdure\n1 / 0\n")
    done = perdure("run", "broken.py:x")
    assert "ZeroDivisionError" in done.stderr
    assert "line 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_workflow_id(perdure: Perdure) -> None:
    perdure("run", "shop.py:fulfil", "--input", ORDER, "--id", "A1")
    done = perdure("show", "B2")
    assert done.returncode == 2
    assert "B2" in done.stderr


def test_a_foreign_database(perdure: Perdure, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute("create table t (x)")
    connection.close()
    for file in ("foreign.db", "shop.py"):
        before = (tmp_path / file).read_bytes()
        done = perdure("list", "--db", file)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert (tmp_path / file).read_bytes() == before


def test_a_run_that_nobody_serves_says_so(perdure: Perdure, tmp_path: Path) -> None:
    """It is kept, and shown to wait; a worker that knows it later would go on with it."""
    start = (
        "import asyncio\nfrom perdure import Client\n\nasync def main():\n"
        "    async with await Client.connect('ghost.db') as client:\n"
        "        await client.start_workflow('ghost', id='g1')\n\nasyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", start], cwd=tmp_path, check=True, timeout=200)
    shown = perdure("show", "g1", "--db", "ghost.db")
    assert "waits for a worker" in shown.stdout
    assert "running" in shown.stdout


def test_commands_work_while_an_application_runs(perdure: Perdure, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "perdure.cli", "run", "shop.py:slow", "--input", '"first"', "--id", "s1"]
    with (
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as owner,
        ExitStack() as stack,
    ):
        stack.callback(owner.kill)
        assert owner.stdout is not None
        assert owner.stdout.readline() == f"first in {owner.pid}\n"
        listed = perdure("list", "--json")
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout)["status"] == "running"
        shown = perdure("show", "s1")
        assert shown.returncode == 0, shown.stderr
        assert "hang" in shown.stdout
        ran = perdure("run", "shop.py:fulfil", "--input", '{"id": "A1", "amount": 3}', "--id", "f1")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines()[-1] == '"receipt A1"'
        first = json.loads(perdure("show", "f1", "--json").stdout)["events"][0]
        queue = first["workflowExecutionStartedEventAttributes"]["taskQueue"]["name"]
        assert queue.startswith("run-"), "the application's queue is left to it"
    assert perdure("list").returncode == 0


def test_killed_inside_an_activity(perdure: Perdure, tmp_path: Path, environment: dict[str, str]) -> None:
    """The activity that was running is run again by the next process, and completes once."""
    arguments = ["run", "shop.py:slow", "--input", '"work"', "--id", "s1"]
    command = [sys.executable, "-m", "perdure.cli", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == f"work in {first.pid}\n"
        first.kill()
    (tmp_path / "go").touch()
    second = perdure(*arguments)
    assert second.returncode == 0, second.stderr
    assert len(second.stdout.splitlines()) == 2
    events = json.loads(perdure("show", "s1", "--json").stdout)["events"]
    kinds = [event["eventType"] for event in events]
    assert kinds.count("EVENT_TYPE_ACTIVITY_TASK_STARTED") == 1
    assert kinds.count("EVENT_TYPE_ACTIVITY_TASK_COMPLETED") == 1


def test_the_demo_takes_ones_own_orders(perdure: Perdure, tmp_path: Path) -> None:
    rows = [f"B{number},Ada,ada@example.com,MUG-12,1,1250,4242-4242-4242-4242,DE" for number in range(12)]
    (tmp_path / "mine.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    done = perdure("demo", "--orders", "mine.csv", "--keep", "kept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 fulfilled, 0 cancelled" in done.stdout
    assert "Proven." in done.stdout
    assert (tmp_path / "kept" / "ledger.jsonl").exists()


def test_the_demo(perdure: Perdure) -> None:
    done = perdure("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for claim in (
        "kill -9",
        "every order is at its end",
        "no completed step ran twice",
        "no payment was charged twice",
    ):
        assert claim in done.stdout


def test_a_failure_shows_where_it_was_raised(perdure: Perdure) -> None:
    done = perdure("run", "shop.py:fulfil", "--input", '{"id": "A1", "amount": -1}')
    error = done.stderr[done.stderr.index("error:") :]
    assert "shop.py" in error
    assert error.count("the amount is negative") == 2, "the error, and the line that raised it"


STRANGE = """
import asyncio
from datetime import timedelta
import perdure
from perdure import workflow

@workflow.defn
async def known() -> None:
    for name in ("first", "second"):
        workflow.upsert_memo({name: "x" * 1_500_000})

async def main() -> None:
    async with perdure.open("perdure.db") as app:
        handle = await app.start("Unknown", id="[/] \\x1b[31m")
        await app.start(known, id="refused")
        await app.start(known, id="elsewhere", task_queue="[b]")
        for watched in (handle, app.handle("refused")):
            async for event in watched.fetch_history_events(wait_new_event=True):
                if event.HasField("workflow_task_failed_event_attributes"):
                    break
            while (await watched.describe()).pending_workflow_task.attempt < 2:
                await asyncio.sleep(0)

asyncio.run(main())
"""


def test_strange_ids_and_runs_that_wait(perdure: Perdure, tmp_path: Path) -> None:
    """What is in a database is shown, and not obeyed; a run that cannot go on says why."""
    (tmp_path / "strange.py").write_text(STRANGE)
    subprocess.run([sys.executable, "strange.py"], cwd=tmp_path, check=True, capture_output=True)
    listed = perdure("list")
    assert listed.returncode == 0, listed.stderr
    assert "[/] \\x1b[31m" in listed.stdout
    shown = perdure("show", "[/] \x1b[31m").stdout
    assert "\x1b" not in shown
    assert "workflow type 'Unknown' is not registered" in " ".join(shown.split())
    assert "Memo exceeds size limit of 2097152 bytes" in perdure("show", "refused").stdout
    assert "waits for a worker of task queue [b] that runs this workflow" in perdure("show", "elsewhere").stdout


def test_ids_that_cannot_be(perdure: Perdure) -> None:
    perdure("run", "shop.py:fulfil", "--input", ORDER)
    for command in (["show", ""], ["run", "shop.py:fulfil", "--input", ORDER, "--id", ""]):
        done = perdure(*command)
        assert done.returncode == 2
        assert "is empty" in done.stderr
        assert "Traceback" not in done.stderr
