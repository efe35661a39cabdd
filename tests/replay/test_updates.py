"""Updates: checked, accepted, carried out, answered; and the same again at every replay."""

from __future__ import annotations

import asyncio
import logging
import secrets
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.api import messages as m
from perdure.common import RawValue
from perdure.exceptions import (
    ApplicationError,
    CancelledError,
    DefinitionError,
    NondeterminismError,
    ReadOnlyContextError,
)
from perdure.replay.definition import WorkflowDefinition
from tests.replay.support import CONVERTER, E, Scenario, payloads, value_of


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def translate(text: str) -> str:
    return text


@workflow.defn
class Greeter:
    def __init__(self) -> None:
        self.language = "en"
        self.log: list[str] = []
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: self.done)
        return self.log

    @workflow.signal
    def note(self, text: str) -> None:
        self.log.append(text)

    @workflow.signal
    def finish(self) -> None:
        self.done = True

    @workflow.update
    def set_language(self, language: str) -> str:
        before, self.language = self.language, language
        self.log.append(f"{before}>{language}")
        return before

    @set_language.validator
    def check_language(self, language: str) -> None:
        if language == "xx":
            raise ValueError("there is no such language")

    @workflow.update(name="greet")
    async def say(self, name: str) -> str:
        return f"{await translate(self.language)} {name}"

    @workflow.update
    def fails(self) -> None:
        raise KeyError("nothing of the kind")

    @workflow.update
    async def who(self) -> str:
        info = workflow.current_update_info()
        assert info is not None
        return f"{info.name} {info.id}"

    @workflow.query
    def count(self) -> int:
        return len(self.log)


def begun(cls: Any = Greeter, *args: Any) -> Scenario:
    scenario = Scenario(cls, *args)
    assert scenario.task() == []
    return scenario


def failure_of(scenario: Scenario, update_id: str, what: str = "complete") -> BaseException:
    answer = scenario.answer(update_id, what)
    return CONVERTER.from_failure(answer.failure if what == "reject" else answer.outcome.failure)


def result_of(scenario: Scenario, update_id: str) -> Any:
    return value_of(scenario.answer(update_id, "complete").outcome.success)


def test_a_plain_handler_accepts_and_answers_in_one_task() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    assert scenario.task() == ["message u1/request/accept", "message u1/request/complete"]
    assert result_of(scenario, "u1") == "en"
    accepted = scenario.answer("u1", "accept")
    assert accepted.accepted_request_message_id == "u1/request"
    assert accepted.accepted_request_sequencing_event_id == scenario.last_started - 1
    assert accepted.accepted_request.input.name == "set_language"
    scenario.signal("finish")
    assert scenario.task() == ["complete ['en>fr']"]
    scenario.check_laws()


def test_a_handler_that_waits_is_answered_by_a_later_task() -> None:
    scenario = begun()
    scenario.update("u1", "greet", "Ada")
    assert scenario.task() == ["message u1/request/accept", "activity 1 translate"]
    scenario.complete("1", "hello")
    assert scenario.task() == ["message u1/request/complete"]
    assert result_of(scenario, "u1") == "hello Ada"
    scenario.signal("finish")
    assert scenario.task(cached=False) == ["complete []"]
    scenario.check_laws()


def test_updates_of_one_task_run_in_order_each_as_far_as_it_gets() -> None:
    scenario = begun()
    scenario.update("u1", "greet", "Ada")
    scenario.update("u2", "set_language", "fr")
    scenario.update("u3", "greet", "Bob")
    assert scenario.task() == [
        "message u1/request/accept",
        "activity 1 translate",
        "message u2/request/accept",
        "message u2/request/complete",
        "message u3/request/accept",
        "activity 2 translate",
    ]
    scenario.complete("2", "salut")
    scenario.complete("1", "hello")
    assert scenario.task() == ["message u3/request/complete", "message u1/request/complete"]
    scenario.check_laws()


def test_messages_are_taken_in_the_order_of_their_events() -> None:
    scenario = begun()
    scenario.open_task()
    messages: list[m.Message] = []
    for update_id, name, event_id in (("u1", "b", 5), ("u2", "a", 3)):
        request = m.Request(meta=m.Meta(update_id=update_id), input=m.Input(name="set_language", args=payloads(name)))
        message = m.Message(id=update_id, protocol_instance_id=update_id, event_id=event_id)
        message.body.Pack(request)
        messages.append(message)
    run = scenario.run
    run.begin(scenario.poll_response(messages=messages))
    run.feed(scenario.events[run.next_event_id - 1 :], last=True)
    answered = [message.id for message in run.outcome().messages]  # pyright: ignore
    assert answered == ["u2/accept", "u2/complete", "u1/accept", "u1/complete"]
    run.close()


def test_signals_of_the_same_task_come_first() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    scenario.signal("note", "before")
    scenario.task()
    scenario.signal("finish")
    assert scenario.task() == ["complete ['before', 'en>fr']"]
    scenario.check_laws()


def test_the_handler_runs_before_the_code_that_the_same_task_wakes() -> None:
    @workflow.defn
    class Watch:
        def __init__(self) -> None:
            self.log: list[str] = []

        @workflow.run
        async def run(self) -> list[str]:
            await translate("x")
            self.log.append("run")
            await workflow.wait_condition(workflow.all_handlers_finished)
            return self.log

        @workflow.update
        async def add(self, text: str) -> None:
            self.log.append(text)
            await asyncio.sleep(1)

    scenario = begun_with(Watch, ["activity 1 translate"])
    scenario.complete("1", "x")
    scenario.update("u1", "add", "update")
    assert scenario.task() == ["message u1/request/accept", "timer 1 1000ms"]
    scenario.fire("1")
    assert scenario.task() == ["message u1/request/complete", "complete ['update', 'run']"]
    scenario.check_laws()


def begun_with(cls: Any, commands: list[str], *args: Any) -> Scenario:
    scenario = Scenario(cls, *args)
    assert scenario.task() == commands
    return scenario


def test_what_the_validator_raises_rejects_the_update_and_leaves_nothing() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "xx")
    length = len(scenario.events)
    assert scenario.task() == []
    assert len(scenario.events) == length
    rejected = failure_of(scenario, "u1", "reject")
    assert isinstance(rejected, ApplicationError)
    assert (rejected.type, rejected.message) == ("ValueError", "there is no such language")
    answer = scenario.answer("u1", "reject")
    assert answer.rejected_request_message_id == "u1/request"
    assert answer.rejected_request.input.name == "set_language"
    scenario.signal("finish")
    assert scenario.task() == ["complete []"]
    scenario.check_laws()


def test_a_task_taken_back_does_not_hide_the_events_that_came_with_it() -> None:
    scenario = begun()
    scenario.update("u1", "greet", "Ada")
    scenario.task()
    scenario.update("u2", "set_language", "xx")
    assert scenario.task() == []
    scenario.update("u3", "set_language", "xx")
    assert scenario.task() == []
    scenario.complete("1", "hello")
    assert scenario.task() == ["message u1/request/complete"]
    scenario.check_laws()


def test_a_rejected_update_beside_an_accepted_one_is_not_replayed() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "xx")
    scenario.update("u2", "set_language", "fr")
    assert scenario.task() == ["message u2/request/accept", "message u2/request/complete"]
    assert failure_of(scenario, "u1", "reject")
    scenario.signal("finish")
    assert scenario.task(cached=False) == ["complete ['en>fr']"]
    scenario.check_laws()


def test_the_validator_is_not_asked_again_at_a_replay() -> None:
    allowed = ["fr"]

    @workflow.defn
    class Choosy:
        def __init__(self) -> None:
            self.language = ""

        @workflow.run
        async def run(self) -> str:
            await workflow.wait_condition(lambda: bool(self.language))
            return self.language

        @workflow.update
        async def choose(self, language: str) -> None:
            await translate(language)
            self.language = language

        @choose.validator
        def check(self, language: str) -> None:
            if language not in allowed:
                raise ValueError(language)

    scenario = begun(Choosy)
    scenario.update("u1", "choose", "fr")
    scenario.task()
    allowed.clear()
    scenario.complete("1", "fr")
    assert scenario.task(cached=False) == ["message u1/request/complete", "complete 'fr'"]


@pytest.mark.parametrize("attempt", ["timer", "task", "activity", "random", "handler", "soon"])
def test_a_validator_may_change_nothing(attempt: str) -> None:
    attempts: dict[str, Any] = {
        "timer": lambda: asyncio.get_running_loop().call_later(1, print),
        "task": lambda: asyncio.get_running_loop().create_task(translate("x")),
        "activity": lambda: workflow.start_activity(translate, "x"),
        "random": lambda: workflow.uuid4(),
        "handler": lambda: workflow.set_update_handler("other", print),
        "soon": lambda: asyncio.get_running_loop().call_soon(print),
    }

    @workflow.defn
    class Cheat:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update
        def go(self) -> None: ...

        @go.validator
        def check(self) -> None:
            attempts[attempt]()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # The coroutine that is refused is never awaited.
        scenario = begun_with(Cheat, ["timer 1 100000ms"])
        scenario.update("u1", "go")
        with pytest.raises(ReadOnlyContextError, match="an update's validator may not "):
            scenario.task()
    scenario.fail_task()
    attempts[attempt] = lambda: None
    scenario.update("u1", "go")  # The service brings it again.
    assert scenario.task(cached=False) == ["message u1/request/accept", "message u1/request/complete"]


def test_what_the_validator_does_to_its_arguments_stays_with_it() -> None:
    @workflow.defn
    class Taker:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update
        def take(self, items: list[int]) -> list[int]:
            return items

        @take.validator
        def check(self, items: list[int]) -> None:
            items.clear()

    scenario = begun_with(Taker, ["timer 1 100000ms"])
    scenario.update("u1", "take", [1, 2])
    scenario.task()
    assert result_of(scenario, "u1") == [1, 2]


def test_an_error_of_the_handler_fails_the_update_not_the_workflow() -> None:
    scenario = begun()
    scenario.update("u1", "fails")
    assert scenario.task() == ["message u1/request/accept", "message u1/request/complete"]
    failed = failure_of(scenario, "u1")
    assert isinstance(failed, ApplicationError)
    assert failed.type == "KeyError"
    scenario.signal("finish")
    assert scenario.task() == ["complete []"]
    scenario.check_laws()


def test_a_cancelled_handler_fails_the_update_as_cancelled() -> None:
    @workflow.defn
    class Stopped:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update
        async def go(self) -> None:
            raise asyncio.CancelledError("no more")

    scenario = begun_with(Stopped, ["timer 1 100000ms"])
    scenario.update("u1", "go")
    scenario.task()
    assert isinstance(failure_of(scenario, "u1"), CancelledError)


def test_a_result_of_the_wrong_type_fails_the_update() -> None:
    @workflow.defn
    class Wrong:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update
        def number(self) -> int:
            return "text"  # type: ignore[return-value]

    scenario = begun_with(Wrong, ["timer 1 100000ms"])
    scenario.update("u1", "number")
    scenario.task()
    assert "the result of update number" in str(failure_of(scenario, "u1"))


def test_continuing_as_new_from_a_handler_fails_the_update() -> None:
    @workflow.defn
    class Again:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update
        async def renew(self) -> None:
            workflow.continue_as_new()

    scenario = begun_with(Again, ["timer 1 100000ms"])
    scenario.update("u1", "renew")
    assert scenario.task() == ["message u1/request/accept", "message u1/request/complete"]
    assert "may not continue as new" in str(failure_of(scenario, "u1"))


def test_arguments_that_do_not_fit_reject_the_update() -> None:
    scenario = begun()
    scenario.update("u1", "set_language")
    scenario.update("u2", "set_language", 7)
    scenario.update("u3", "set_language", "fr", "more than it knows")
    assert scenario.task() == ["message u3/request/accept", "message u3/request/complete"]
    assert "takes 1 argument, 0 given" in str(failure_of(scenario, "u1", "reject"))
    assert failure_of(scenario, "u2", "reject")
    scenario.check_laws()


def test_an_update_nobody_handles_is_rejected_by_name() -> None:
    scenario = begun()
    scenario.update("u1", "fly", 1)
    assert scenario.task() == []
    rejected = str(failure_of(scenario, "u1", "reject"))
    assert "no update 'fly'" in rejected
    assert "set_language" in rejected


def test_a_handler_knows_its_update() -> None:
    scenario = begun()
    scenario.update("u1", "who")
    scenario.update("u2", "who")
    scenario.task()
    assert result_of(scenario, "u1") == "who u1"
    assert result_of(scenario, "u2") == "who u2"


def test_other_code_runs_for_no_update() -> None:
    @workflow.defn
    async def asks() -> bool:
        return workflow.current_update_info() is None

    assert Scenario(asks).task() == ["complete True"]


def test_a_dynamic_handler_takes_every_other_name() -> None:
    @workflow.defn
    class Any_:
        @workflow.run
        async def run(self) -> None:
            await asyncio.sleep(100)

        @workflow.update(dynamic=True)
        def other(self, name: str, args: Sequence[RawValue]) -> str:
            return f"{name} {workflow.payload_converter().from_payload(args[0].payload, int)}"

        @other.validator
        def check(self, name: str, args: Sequence[RawValue]) -> None:
            if name == "no":
                raise ValueError(name)

    scenario = begun_with(Any_, ["timer 1 100000ms"])
    scenario.update("u1", "yes", 3)
    scenario.update("u2", "no", 3)
    scenario.task()
    assert result_of(scenario, "u1") == "yes 3"
    assert failure_of(scenario, "u2", "reject")
    scenario.check_laws()


# Before the code has begun, and functions that set their handlers.


def test_an_update_that_comes_with_the_start_runs_before_the_code() -> None:
    scenario = Scenario(Greeter)
    scenario.signal("note", "first")
    scenario.signal("finish")
    scenario.update("u1", "set_language", "fr")
    assert scenario.task() == [
        "message u1/request/accept",
        "message u1/request/complete",
        "complete ['first', 'en>fr']",
    ]
    scenario.check_laws()


def test_a_function_sets_its_handlers_while_it_runs() -> None:
    @workflow.defn
    async def approval(limit: int) -> list[int]:
        given: list[int] = []

        @workflow.update
        async def give(amount: int) -> int:
            given.append(amount)
            await translate(str(amount))
            return sum(given)

        @give.validator
        def check(amount: int) -> None:
            if amount > limit:
                raise ValueError("too much")

        await workflow.wait_condition(lambda: len(given) == 2 and workflow.all_handlers_finished())
        return given

    scenario = Scenario(approval, 10)
    scenario.update("u1", "give", 3)
    scenario.update("u2", "give", 30)
    assert scenario.task() == ["message u1/request/accept", "activity 1 translate"]
    assert "too much" in str(failure_of(scenario, "u2", "reject"))
    scenario.complete("1", "x")
    scenario.update("u3", "give", 4)
    assert scenario.task() == ["message u3/request/accept", "activity 2 translate", "message u1/request/complete"]
    assert result_of(scenario, "u1") == 7
    scenario.complete("2", "x")
    assert scenario.task(cached=False) == ["message u3/request/complete", "complete [3, 4]"]
    scenario.check_laws()


def test_an_update_waits_for_a_handler_until_the_code_of_its_task_rests() -> None:
    @workflow.defn
    async def late() -> str:
        token: str = await workflow.step(secrets.token_hex, 4)
        workflow.set_update_handler("token", lambda: token)
        await asyncio.sleep(10)
        workflow.set_update_handler("token", None)
        await asyncio.sleep(10)
        return token

    scenario = Scenario(late)
    scenario.update("u1", "token")
    assert scenario.task() == [
        "marker perdure.step",
        "timer 1 10000ms",
        "message u1/request/accept",
        "message u1/request/complete",
    ]
    scenario.fire("1")
    scenario.update("u2", "token")
    assert scenario.task() == ["message u2/request/accept", "message u2/request/complete", "timer 2 10000ms"]
    scenario.update("u3", "token")
    assert scenario.task() == []
    assert "it has: none" in str(failure_of(scenario, "u3", "reject"))
    scenario.fire("2")
    assert scenario.task()[0].startswith("complete ")
    scenario.check_laws()


def test_handlers_are_set_found_and_removed() -> None:
    @workflow.defn
    class Setter:
        @workflow.run
        async def run(self) -> list[bool]:
            known = workflow.get_update_handler("known")
            assert known is not None
            workflow.set_update_handler("more", self.more, validator=self.check)
            workflow.set_dynamic_update_handler(self.rest)
            return [
                known() == 1,
                workflow.get_update_handler("more") == self.more,
                workflow.get_update_handler("unknown") is None,
                workflow.get_dynamic_update_handler() == self.rest,
            ]

        @workflow.update
        def known(self) -> int:
            return 1

        def more(self, count: int) -> int:
            return count

        def check(self, count: int) -> None: ...

        def rest(self, name: str, args: Sequence[RawValue]) -> None: ...

    assert Scenario(Setter).task() == ["complete [True, True, True, True]"]


def test_a_handler_runs_steps_that_outlast_its_task() -> None:
    @workflow.defn
    class Steps:
        def __init__(self) -> None:
            self.done = False

        @workflow.run
        async def run(self) -> str:
            first = await workflow.step(str.upper, "main")
            await workflow.wait_condition(lambda: self.done)
            return first

        @workflow.update
        async def act(self) -> str:
            found = await workflow.step(str.upper, "abc")
            found += await workflow.step(str.lower, "DEF")
            self.done = True
            return found

    scenario = Scenario(Steps)
    scenario.update("u1", "act")
    assert scenario.task(steps=1) == ["message u1/request/accept", "marker perdure.step"]
    assert scenario.task() == [
        "marker perdure.step",
        "marker perdure.step",
        "message u1/request/complete",
        "complete 'MAIN'",
    ]
    assert result_of(scenario, "u1") == "ABCdef"
    scenario.check_laws()


# The end of the run.


def test_a_close_waits_for_handlers_that_finish_in_the_same_task() -> None:
    @workflow.defn
    class Closer:
        def __init__(self) -> None:
            self.asked = False
            self.result = ""

        @workflow.run
        async def run(self) -> str:
            await workflow.wait_condition(lambda: self.asked)
            self.result = "the end"
            return self.result

        @workflow.update
        async def close(self) -> str:
            self.asked = True
            await workflow.wait_condition(lambda: bool(self.result))
            return self.result

    scenario = begun(Closer)
    scenario.update("u1", "close")
    assert scenario.task() == [
        "message u1/request/accept",
        "message u1/request/complete",
        "complete 'the end'",
    ]
    assert result_of(scenario, "u1") == "the end"
    scenario.check_laws()


@workflow.defn
class Leaver:
    def __init__(self) -> None:
        self.asked = False

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self.asked)

    @workflow.update
    async def told(self) -> None:
        self.asked = True
        await translate("x")

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def quiet(self) -> None:
        self.asked = True
        await translate("x")

    @workflow.signal
    async def told_signal(self) -> None:
        self.asked = True
        await translate("x")

    @workflow.signal(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def quiet_signal(self) -> None:
        self.asked = True
        await translate("x")


def test_a_close_warns_of_update_handlers_under_way() -> None:
    scenario = begun(Leaver)
    scenario.update("u1", "told")
    scenario.update("u2", "quiet")
    with pytest.warns(workflow.UnfinishedUpdateHandlersWarning, match=r"told \(u1\) \(workflow Leaver"):
        commands = scenario.task()
    assert commands[-1] == "complete None"
    scenario.replay_all().close()


def test_a_close_warns_of_signal_handlers_under_way() -> None:
    scenario = begun(Leaver)
    scenario.signal("told_signal")
    scenario.signal("quiet_signal")
    with pytest.warns(workflow.UnfinishedSignalHandlersWarning, match=r"way: told_signal \(workflow Leaver"):
        scenario.task()
    scenario.replay_all().close()


def test_handlers_that_may_be_abandoned_are_left_in_silence() -> None:
    scenario = begun(Leaver)
    scenario.signal("quiet_signal")
    scenario.update("u2", "quiet")
    assert scenario.task()[-1] == "complete None"


def test_where_warnings_are_errors_the_close_stands_and_the_log_tells(caplog: pytest.LogCaptureFixture) -> None:
    scenario = begun(Leaver)
    scenario.signal("told_signal")
    with warnings.catch_warnings(), caplog.at_level(logging.ERROR):
        warnings.simplefilter("error")
        assert scenario.task()[-1] == "complete None"
    assert "told_signal" in caplog.text


def test_the_first_of_two_closes_counts() -> None:
    @workflow.defn
    class Twice:
        def __init__(self) -> None:
            self.step = 0

        @workflow.run
        async def run(self) -> str:
            await workflow.wait_condition(lambda: self.step == 1)
            self.step = 2
            return "run"

        @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
        async def go(self) -> None:
            self.step = 1
            await asyncio.sleep(10)

        @workflow.signal
        async def fail(self) -> None:
            await workflow.wait_condition(lambda: self.step == 2)
            raise ApplicationError("too late")

    scenario = begun(Twice)
    scenario.signal("fail")
    scenario.update("u1", "go")
    assert scenario.task() == ["message u1/request/accept", "timer 1 10000ms", "complete 'run'"]
    scenario.check_laws()


# History that does not fit the code.


def changed(scenario: Scenario, cls: Any) -> str:
    with pytest.raises(NondeterminismError) as caught:
        scenario.replay_all(WorkflowDefinition.must_be(cls))
    return str(caught.value)


def test_code_that_lost_a_handler_is_told_so() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    scenario.task()
    scenario.signal("finish")
    scenario.task()

    @workflow.defn(name="Greeter")
    class Without:
        @workflow.run
        async def run(self) -> None:
            await workflow.wait_condition(lambda: False)

    message = changed(scenario, Without)
    assert "accepted update 'set_language' (u1)" in message
    assert "it has: none" in message


def test_code_that_takes_other_arguments_is_told_so() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    scenario.task()
    scenario.signal("finish")
    scenario.task()

    @workflow.defn(name="Greeter")
    class Other:
        @workflow.run
        async def run(self) -> None:
            await workflow.wait_condition(lambda: False)

        @workflow.update
        def set_language(self, language: str, region: str) -> str:
            return language + region

    assert "takes 2 arguments, 1 given" in changed(scenario, Other)


def test_a_handler_that_answers_at_another_point_is_a_mismatch() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    scenario.task()
    scenario.signal("finish")
    scenario.task()

    @workflow.defn(name="Greeter")
    class Slow(Greeter):
        @workflow.run
        async def run(self) -> list[str]:
            return await super().run()

        @workflow.update
        async def set_language(self, language: str) -> str:  # type: ignore[override]
            await translate(language)
            return language

    message = changed(scenario, Slow)

    assert "history holds  event 9: WorkflowExecutionUpdateCompleted update_id='u1'" in message
    assert "code asked to  schedule an activity" in message
    assert "in test_a_handler_that_answers_at_another_point_is_a_mismatch" in message


def test_a_request_that_an_event_admitted_is_delivered_and_replayed() -> None:
    def admit(scenario: Scenario, update_id: str, name: str, *args: Any) -> None:
        attrs = scenario.add(
            E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
        ).workflow_execution_update_admitted_event_attributes
        attrs.request.meta.update_id = update_id
        attrs.request.input.name = name
        attrs.request.input.args.CopyFrom(payloads(*args))

    scenario = begun()
    admit(scenario, "u1", "set_language", "fr")
    admit(scenario, "u2", "set_language", "xx")
    assert scenario.task() == ["message u1/request/accept", "message u1/request/complete"]
    assert failure_of(scenario, "u2", "reject")
    # The accepted-event of an update that an event has admitted need not repeat the request.
    accepted = scenario.find(E.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
    accepted.workflow_execution_update_accepted_event_attributes.ClearField("accepted_request")
    scenario.signal("finish")
    assert scenario.task(cached=False) == ["complete ['en>fr']"]
    scenario.check_laws()


def test_a_message_of_another_protocol_fails_the_task() -> None:
    scenario = begun()
    scenario.open_task()
    message = m.Message(id="x", protocol_instance_id="x", event_id=1)
    message.body.Pack(m.Payload())
    run = scenario.run
    run.begin(scenario.poll_response(messages=[message]))
    run.feed(scenario.events[run.next_event_id - 1 :], last=True)
    assert "does not know" in str(run.outcome().error)  # pyright: ignore
    run.close()


def test_a_query_answers_beside_an_update() -> None:
    scenario = begun()
    scenario.update("u1", "set_language", "fr")
    scenario.task(queries={"q": m.WorkflowQuery(query_type="count", query_args=payloads())})
    results = scenario.outcome.query_results  # pyright: ignore
    assert value_of(results["q"].answer) == 1


# Declarations that cannot work.


def test_a_validator_may_not_be_async() -> None:
    with pytest.raises(DefinitionError, match="may not be async"):

        class Wrong:
            @workflow.update
            def go(self) -> None: ...

            @go.validator  # type: ignore[arg-type]
            async def check(self) -> None: ...


def test_a_validator_takes_what_its_handler_takes() -> None:
    with pytest.raises(DefinitionError, match="takes the parameters of its handler"):

        class Wrong:
            @workflow.update
            def go(self, count: int) -> None: ...

            @go.validator  # type: ignore[arg-type]
            def check(self) -> None: ...


def test_two_updates_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two handlers of update 'go'"):

        @workflow.defn
        class Wrong:
            @workflow.run
            async def run(self) -> None: ...

            @workflow.update
            def go(self) -> None: ...

            @workflow.update(name="go")
            def went(self) -> None: ...


def test_a_dynamic_update_takes_name_and_values() -> None:
    with pytest.raises(DefinitionError, match="dynamic handler takes the name"):

        class Wrong:
            @workflow.update(dynamic=True)
            def go(self, name: str) -> None: ...
