"""What replaying workflow code may raise on its own account.

These errors concern the *code* of a workflow, not its outcome: they fail the workflow task and keep the run, so
that it goes on once corrected code is deployed. `perdure.exceptions` offers them to users under the same names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Finding", "ForbiddenCallError", "ForbiddenCodeError", "PerdureError"]


class PerdureError(Exception):
    """The root of every error Perdure raises on its own account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A call that workflow code may not make, and where it stands.

    Attributes:
        call: the call as its author knows it, e.g. ``time.time``.
        file: path of the source file.
        line: line in that file, from 1.
        advice: what to use instead.
    """

    call: str
    file: str
    line: int
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.call} is forbidden in workflow code; {self.advice}"


class ForbiddenCallError(PerdureError):
    """Workflow code made a call whose answer would differ, or whose effect would repeat, on replay.

    Raised at the call itself. The workflow task fails and the run is kept; it goes on when the code is fixed.

    Attributes:
        finding: the call, the user's file and line, and what to use instead.
        function: qualified name of the user's function that made the call.
        through: the library function by which it came about, or "".
    """

    def __init__(self, finding: Finding, *, function: str = "", through: str = "") -> None:
        place = f"{finding.file}:{finding.line}" + (f", in {function}" if function else "")
        way = f" (through {through})" if through else ""
        super().__init__(f"{finding.call}{way} is forbidden in workflow code: {finding.advice}. Called at {place}.")
        self.finding = finding
        self.function = function
        self.through = through


class ForbiddenCodeError(PerdureError):
    """Reading a workflow's code at registration found calls that it may not make.

    Attributes:
        findings: every one of them, in the order of file and line.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        lines = "\n".join(f"  {finding}" for finding in self.findings)
        super().__init__(
            f"workflow code makes {len(self.findings)} forbidden call(s):\n{lines}\n"
            "Change them, or end a line that is safe with the comment '# perdure: allow'."
        )
