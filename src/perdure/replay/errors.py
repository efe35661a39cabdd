"""What reading a workflow's code may bring to light, before it has run.

The error of a single forbidden call at run time is `perdure.exceptions.ForbiddenCallError`; here is what the static
check (`perdure.replay.lint`) reports when a worker starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perdure.exceptions import DefinitionError

__all__ = ["Finding", "ForbiddenCodeError"]


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
        return f"{self.file}:{self.line}: {self.call} may not be used in workflow code: {self.advice}"


class ForbiddenCodeError(DefinitionError):
    """Workflow code contains calls whose outcome differs from run to run; the worker does not start with it.

    Attributes:
        findings: every one of them, in the order they were met.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        lines = "\n".join(f"  {finding}" for finding in self.findings)
        super().__init__(
            f"workflow code contains forbidden calls ({len(self.findings)}):\n{lines}\n"
            "Change them, or mark a line that is safe with the comment '# perdure: allow'."
        )
