"""The result of an analysis: the record, its parts, and its file."""

from __future__ import annotations

from lightning_morse.result.parts import Box, Curvature, Ladder, MorseSet, WayOut
from lightning_morse.result.record import MorseAnalysis

__all__ = ["Box", "Curvature", "Ladder", "MorseAnalysis", "MorseSet", "WayOut"]
