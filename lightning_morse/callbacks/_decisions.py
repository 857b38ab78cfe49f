"""What is said about a decision to analyse or not, where it is not as usual."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_morse.callbacks._messages import Messages
from lightning_morse.monitoring.costs import Portion
from lightning_morse.monitoring.pace import Decision, Pace
from lightning_morse.monitoring.settings import Settings
from lightning_morse.words import length_of_time

# An analysis that is planned to take longer is announced.
_ANNOUNCED_FROM_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Told:
    """Says what was decided.

    Attributes:
        settings: What the user asked for.
        pace: What decided it.
        chooses: Whether the user left the period open.
        messages: Takes what is said.
        where: When in the run that is, in words.
    """

    settings: Settings
    pace: Pace
    chooses: bool
    messages: Messages
    where: str

    def tell(self, decision: Decision, *, ended: bool) -> None:
        """Say what was decided; nothing if it is as usual, or no analysis is due.

        Args:
            decision: The decision.
            ended: Whether training has ended.
        """
        if decision.portion is not None:
            self._tell_portion(decision.portion)
        elif decision.due_in <= 0:
            self._tell_of_none(decision.wait, ended)

    def _tell_of_none(self, wait: float, ended: bool) -> None:
        least = length_of_time(self.pace.portions.smallest().seconds)
        limits = self.settings.limits_of_time
        if ended:
            self.messages.inform(
                f"the last weights are not analysed: the smallest analysis takes {least}, for "
                f"which {limits} has no room",
                self.where,
                "last",
            )
            return
        when = f"{length_of_time(wait)} from now"
        if math.isinf(wait):
            when = "at the end of the run at the earliest"
        left_out = "" if self.chooses else "; what is due until then is left out"
        self.messages.inform(
            f"no analysis, the smallest takes {least} and {limits} has room for it "
            f"{when}{left_out}",
            self.where,
            "budget",
        )

    def _tell_portion(self, portion: Portion) -> None:
        whole, given = self.pace.portions.whole(), self.settings.probe_batches
        unusual = []
        if portion.most < whole.usual:
            unusual.append(f"{portion.most} samples instead of {whole.usual}")
        if portion.part is not None:
            unusual.append(portion.part.words)
        elif portion.batches < given:
            unusual.append(f"{portion.batches} of {given} probe batches")
        if portion.resolution < whole.resolution:
            unusual.append(f"{portion.resolution} cells per axis instead of {whole.resolution}")
        seconds = length_of_time(portion.seconds)
        if unusual:
            each, limits = self.pace.costs.each(portion.batches), self.settings.limits_of_time
            self.messages.inform(
                f"{', '.join(unusual)}: a sample takes {each:.2g} s, and {limits} leaves {seconds}",
                self.where,
                f"portion {portion.batches} {portion.part} {portion.resolution} {len(unusual)}",
            )
        if portion.seconds > _ANNOUNCED_FROM_SECONDS:
            self.messages.inform(f"an analysis begins that takes {seconds}", self.where)
