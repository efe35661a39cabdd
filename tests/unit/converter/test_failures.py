"""Errors to failures and back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure.api import messages as m
from perdure.converter import DataConverter, FailureConverter, default
from perdure.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    RetryState,
    ServerError,
    TerminatedError,
    TimeoutError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)

CONVERTER = default()


def there_and_back(error: BaseException) -> Any:
    failure = CONVERTER.to_failure(error)
    # What travels is bytes.
    return CONVERTER.from_failure(m.Failure.FromString(failure.SerializeToString()))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_ordinary_exception_keeps_type_message_and_stack() -> None:
    failure = CONVERTER.to_failure(raised(ValueError("no such card")))
    assert failure.message == "no such card"
    assert failure.application_failure_info.type == "ValueError"
    assert not failure.application_failure_info.non_retryable
    assert "in raised" in failure.stack_trace
    back = CONVERTER.from_failure(failure)
    assert isinstance(back, ApplicationError)
    assert (back.type, back.message, str(back)) == ("ValueError", "no such card", "ValueError: no such card")
    assert back.failure is not None
    assert "in raised" in back.failure.stack_trace


def test_an_application_error_keeps_everything() -> None:
    error = ApplicationError(
        "declined",
        {"card": 1},
        "again",
        type="Declined",
        non_retryable=True,
        next_retry_delay=timedelta(seconds=3),
        category=ApplicationErrorCategory.BENIGN,
    )
    back = there_and_back(error)
    assert (back.message, back.type, back.non_retryable) == ("declined", "Declined", True)
    assert list(back.details) == [{"card": 1}, "again"]
    assert back.next_retry_delay == timedelta(seconds=3)
    assert back.category is ApplicationErrorCategory.BENIGN


def test_causes_are_kept_in_order() -> None:
    try:
        try:
            try:
                raise KeyError("a")
            except KeyError as error:
                raise ValueError("b") from error
        except ValueError:
            raise RuntimeError("c")  # noqa: B904 - the context, not a cause, is what is tested
    except RuntimeError as error:
        back = there_and_back(error)
    assert back.type == "RuntimeError"
    assert back.cause.type == "ValueError"
    assert back.cause.cause.type == "KeyError"
    assert back.cause.cause.cause is None


def test_a_suppressed_context_is_left_out() -> None:
    try:
        try:
            raise KeyError("secret")
        except KeyError:
            raise ValueError("public") from None
    except ValueError as error:
        assert there_and_back(error).cause is None


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert there_and_back(one).cause.cause is None


def test_a_long_chain_of_causes_is_bounded() -> None:
    error: BaseException = ValueError("end")
    for _ in range(1000):
        outer = ValueError("x")
        outer.__cause__ = error
        error = outer
    back = there_and_back(error)
    depth = 0
    while back is not None:
        back, depth = back.cause, depth + 1
    assert depth == 33


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (CancelledError("stop", 1), ("message", "details")),
        (TerminatedError("enough"), ("message",)),
        (ServerError("oops", non_retryable=True), ("message", "non_retryable")),
        (
            TimeoutError("late", type=TimeoutType.HEARTBEAT, last_heartbeat_details=[3]),
            ("type", "last_heartbeat_details"),
        ),
        (
            ActivityError(
                "activity failed",
                scheduled_event_id=5,
                started_event_id=6,
                identity="me",
                activity_type="charge",
                activity_id="1",
                retry_state=RetryState.TIMEOUT,
            ),
            ("scheduled_event_id", "started_event_id", "identity", "activity_type", "activity_id", "retry_state"),
        ),
        (
            ChildWorkflowError(
                "child failed",
                namespace="n",
                workflow_id="w",
                run_id="r",
                workflow_type="t",
                initiated_event_id=1,
                started_event_id=2,
                retry_state=None,
            ),
            ("namespace", "workflow_id", "run_id", "workflow_type", "initiated_event_id", "retry_state"),
        ),
    ],
)
def test_perdures_own_errors_keep_their_kind(error: FailureError, fields: tuple[str, ...]) -> None:
    back = there_and_back(error)
    assert type(back) is type(error)
    for name in ("message", *fields):
        given, got = getattr(error, name), getattr(back, name)
        assert (list(got) if isinstance(got, list) else got) == (list(given) if isinstance(got, list) else given)


def test_pythons_cancellation_becomes_a_recorded_one() -> None:
    back = there_and_back(asyncio.CancelledError())
    assert isinstance(back, CancelledError)
    assert back.message == "Cancelled"


def test_an_error_raised_on_keeps_the_failure_it_came_with() -> None:
    failure = CONVERTER.to_failure(raised(ValueError("x")))
    assert CONVERTER.to_failure(CONVERTER.from_failure(failure)) == failure


def test_already_started_is_an_application_failure() -> None:
    failure = CONVERTER.to_failure(WorkflowAlreadyStartedError("w", "t"))
    assert failure.application_failure_info.type == "WorkflowExecutionAlreadyStarted"


def test_groups_show_all_their_members() -> None:
    group = ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    failure = CONVERTER.to_failure(raised(group))
    assert failure.cause.message == "one"
    assert "two" in failure.stack_trace


def test_nothing_about_an_error_raises() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("never")

    assert "cannot be shown" in CONVERTER.to_failure(Broken()).message
    unsendable = CONVERTER.to_failure(ApplicationError("x", object(), 5))
    details = CONVERTER.from_payloads(unsendable.application_failure_info.details.payloads)
    assert "cannot be sent" in details[0]
    assert details[1] == 5
    assert CONVERTER.to_failure(ValueError("\ud800")).message == "?"
    assert len(CONVERTER.to_failure(ValueError("x" * 10_000_000)).message) < 100_000
    unreadable = m.Failure(message="x")
    unreadable.application_failure_info.details.payloads.add(data=b"?")
    back = CONVERTER.from_failure(unreadable)
    assert isinstance(back, ApplicationError)
    assert isinstance(back.details[0], m.Payload)


def test_a_failure_without_a_kind_is_still_an_error() -> None:
    back = CONVERTER.from_failure(m.Failure(message="?"))
    assert isinstance(back, FailureError)
    assert back.message == "?"


def test_unknown_enum_values_do_not_raise() -> None:
    failure = m.Failure()
    failure.timeout_failure_info.timeout_type = 77  # type: ignore[assignment] - an enum of a newer version
    back = CONVERTER.from_failure(failure)
    assert isinstance(back, TimeoutError)
    assert back.type is None


class _Untyped:
    """What callers who don't look at hints give."""

    number: Any = 5
    nothing: Any = None
    text: Any = "yes"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ApplicationError(_Untyped.number), "5"),
        (ApplicationError(_Untyped.nothing), "None"),
        (ApplicationError("x", type=_Untyped.number), "x"),
        (ApplicationError("x", non_retryable=_Untyped.text), "x"),
    ],
)
def test_an_error_with_values_of_the_wrong_type_travels(error: ApplicationError, message: str) -> None:
    assert there_and_back(raised(error)).message == message


class Odd(ApplicationError):
    @property
    def details(self) -> Any:
        raise RuntimeError("no details today")


class Refusing(FailureConverter):
    def to_failure(self, error: BaseException, converter: Any) -> m.Failure:
        raise RuntimeError("not in the mood")


def test_an_error_that_cannot_be_converted_is_still_an_error() -> None:
    back = there_and_back(raised(Odd("what happened")))
    assert back.type == "Odd"
    assert back.message == "what happened (the rest of this error could not be converted: no details today)"
    failure = DataConverter(failure_converter=Refusing()).to_failure(ValueError("what happened"))
    assert failure.application_failure_info.type == "ValueError"
    assert failure.message.startswith("what happened (the rest")


def test_an_unknown_category_is_half_of_the_error() -> None:
    assert "could not be converted" in there_and_back(ApplicationError("x", category=_Untyped.number + 90)).message


def test_a_delay_that_is_no_timedelta_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write timedelta\(seconds=5\)"):
        ApplicationError("x", next_retry_delay=_Untyped.number)
