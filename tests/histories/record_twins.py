"""Records the golden histories of the twins: ``python -m tests.histories.record_twins FOLDER``, in virtual time.

What is recorded is never edited or recorded again. A new release adds a folder, and a copy of the workflows beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.system.test_official_replayer import told
from tests.system.twin_stories import STORIES

ROOT = Path(__file__).resolve().parents[2]


def record(folder: Path) -> None:
    """Live every story, and write the history of each of its runs."""
    for story in STORIES:
        counts: dict[str, int] = {}
        for history in told(story)[1]:
            counts[history.workflow_id] = number = counts.get(history.workflow_id, 0) + 1
            name = f"{story}.{history.workflow_id}.{number}"
            document = {"workflowId": history.workflow_id, **history.to_json_dict()}
            text = json.dumps(document, indent=1).replace(f"{ROOT}/", "")
            (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir()  # Never into a folder that is there already.
    record(target)
