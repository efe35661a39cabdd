"""The engine half: what remembers. `Engine` runs it; ``engine.service`` is how it is spoken to."""

from perdure.engine.config import EngineConfig
from perdure.engine.engine import Engine, EngineStatistics

__all__ = ["Engine", "EngineConfig", "EngineStatistics"]
