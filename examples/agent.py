"""An agent: a loop of thinking and acting that may ask a person, and waits three days for the answer.

Every thought and every tool's answer is recorded, so a crash never pays for the same thought twice. The model here
is a stand-in of a few lines; put a call to a real one in `think`.

Run it: ``python examples/agent.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import perdure
from perdure import RetryPolicy, activity, workflow

PATIENCE = timedelta(days=3)
MAX_TURNS = 20


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model wants next."""

    kind: str
    """``tool``, ``ask`` or ``answer``."""
    text: str


@activity.defn(start_to_close_timeout=timedelta(minutes=2), retry_policy=RetryPolicy(maximum_attempts=5))
async def think(transcript: list[str]) -> Thought:
    """Stands in for a language model."""
    if not any(line.startswith("tool: ") for line in transcript):
        return Thought("tool", "flights to Lisbon in May")
    if not any(line.startswith("person: ") for line in transcript):
        return Thought("ask", "TP541 for 180 EUR: shall I book it?")
    return Thought("answer", "booked" if transcript[-1] == "person: yes" else "not booked")


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def use_tool(query: str) -> str:
    return f"1 result for {query!r}: TP541, 180 EUR"


INBOX: asyncio.Queue[str] = asyncio.Queue()
"""Where the person reads questions; in real life a chat or a mailbox."""


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
async def tell_person(question: str) -> None:
    await INBOX.put(question)


@workflow.defn
class Agent:
    """One conversation with a goal."""

    def __init__(self) -> None:
        self.question = ""
        self.reply: str | None = None

    @workflow.run
    async def run(self, goal: str) -> str:
        transcript = [f"goal: {goal}"]
        for _ in range(MAX_TURNS):
            thought = await think(transcript)
            match thought.kind:
                case "answer":
                    return thought.text
                case "tool":
                    transcript.append(f"tool: {await use_tool(thought.text)}")
                case _:
                    transcript.append(f"person: {await self.ask_person(thought.text)}")
        return "gave up"

    async def ask_person(self, question: str) -> str:
        self.question, self.reply = question, None
        await tell_person(question)
        try:
            await workflow.wait_condition(lambda: self.reply is not None, timeout=PATIENCE)
        except TimeoutError:
            return "no answer"
        finally:
            self.question = ""
        return self.reply or ""

    @workflow.signal
    def answer(self, text: str) -> None:
        if self.question:
            self.reply = text

    @workflow.query
    def open_question(self) -> str:
        return self.question


async def main() -> None:
    """Play the person: answer yes to the first question."""
    with tempfile.TemporaryDirectory() as folder:
        async with perdure.open(
            Path(folder) / "agent.db", workflows=[Agent], activities=[think, use_tool, tell_person]
        ) as app:
            handle = await app.start(Agent.run, "a flight to Lisbon", id="agent-1")
            print(f"asked: {await INBOX.get()}")
            await handle.signal(Agent.answer, "yes")
            print(f"answered: {await handle.result()}")


if __name__ == "__main__":
    asyncio.run(main())
