"""The result of an analysis: the record, and its file."""

from __future__ import annotations

from lightning_morse.result.record import Box, Curvature, Ladder, MorseAnalysis, MorseSet, WayOut

__all__ = ["Box", "Curvature", "Ladder", "MorseAnalysis", "MorseSet", "WayOut"]
