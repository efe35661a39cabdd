"""How much of the long runs is run: ``PERDURE_TORTURE_SHARE`` percent of their seeds, all of them by default."""

from __future__ import annotations

import os

__all__ = ["share_of"]

_PERCENT = int(os.environ.get("PERDURE_TORTURE_SHARE", "100"))


def share_of(seeds: range) -> range:
    """The first of these seeds, at least one."""
    return seeds[: max(1, len(seeds) * _PERCENT // 100)]
