"""Fan-out and fan-in: one activity per chapter, all at once, then one result.

Run it: ``python examples/fan_out.py``. A crash in the middle repeats only the chapters that were being read.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import perdure
from perdure import activity, workflow

CHAPTERS = [
    "the cat sat on the mat and the mat was red",
    "the dog sat on the cat and the cat was cross",
    "a mat is not a dog and a dog is not a mat",
]


@activity.defn(start_to_close_timeout=timedelta(minutes=1))
def count_words(chapter: str) -> dict[str, int]:
    """A plain function: it runs in a thread."""
    return dict(Counter(chapter.split()))


@workflow.defn
async def most_frequent(chapters: list[str], how_many: int) -> list[str]:
    """The words that occur most often in all chapters together."""
    total: Counter[str] = Counter()
    for counts in await asyncio.gather(*(count_words(chapter) for chapter in chapters)):
        total.update(counts)
    return [word for word, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:how_many]]


async def main() -> None:
    """Count, in a database of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with perdure.open(Path(folder) / "words.db", workflows=[most_frequent], activities=[count_words]) as app:
            print(await app.execute(most_frequent, CHAPTERS, 3, id="words-1"))


if __name__ == "__main__":
    asyncio.run(main())
