"""Pictures that look strange, of slices that are strange: those of docs/strange-pictures.md.

    python examples/strange_pictures.py --out docs/images

Each is analysed around a point, as a monitor does around the weights. Writes a picture of each and
prints the sentence that stands in it, and the sentences once something has been done about it.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_from
from lightning_morse.analysis.sentence import sentence

AXES = ("PC 1", "PC 2")
SAMPLES, RESOLUTION = 64, 64
DPI, COLORS = 90, 64  # of the pictures, which have to be small


def flat(x: Tensor) -> Tensor:
    """A valley whose floor is flat, as where training has fitted all examples."""
    return torch.relu(x.norm(dim=1) - 0.7) ** 2


def decayed(x: Tensor) -> Tensor:
    """The same with weight decay as part of the loss."""
    return flat(x) + 0.05 * (x**2).sum(1)


def slope(x: Tensor) -> Tensor:
    """No minimum in the box: the loss falls all the way out of it."""
    return torch.exp(-x[:, 0]) + 0.3 * x[:, 1] ** 2


def edge(x: Tensor) -> Tensor:
    """A minimum right on the face of the box."""
    return (x[:, 0] - 1) ** 2 + 0.3 * x[:, 1] ** 2


def rough(x: Tensor) -> Tensor:
    """A bowl under ripples that are much narrower than the samples are apart."""
    return (x**2).sum(1) + 0.3 * torch.sin(40 * x[:, 0]) * torch.sin(37 * x[:, 1])


def noise(x: Tensor) -> Tensor:
    """A bowl that is seen through noise, different at every point: say, by too few examples."""
    jump = torch.sin(1e5 * x[:, 0] + 3e4 * x[:, 1]) * 43758.5453
    return (x**2).sum(1) + 0.2 * (jump - jump.floor() - 0.5)


def twins(x: Tensor) -> Tensor:
    """Two minima, 0.02 apart, in a box whose cells are 0.03 wide."""
    return 1e4 * (x[:, 0] ** 2 - 0.01**2) ** 2 + x[:, 1] ** 2


def cliff(x: Tensor) -> Tensor:
    """A loss that is not a number beyond a line, as of a logarithm of something negative."""
    loss = (x**2).sum(1) - 1.2 * x[:, 0]
    return torch.where(x[:, 0] > 0.6, torch.full_like(loss, torch.nan), loss)


@dataclass(frozen=True)
class Case:
    """A slice, where the weights are in it, the half-width of the box, and the seed."""

    loss: Callable[[Tensor], Tensor]
    now: tuple[float, float]
    half: float = 1.0
    seed: int = 0

    def analysis(self) -> lm.MorseAnalysis:
        """Analyse it around the weights."""
        corners = [-self.half] * 2, [self.half] * 2
        size = SAMPLES, RESOLUTION
        return analyze_from(
            self.loss, self.now, *corners, None, *size, seed=self.seed, most=SAMPLES
        )

    def said(self, result: lm.MorseAnalysis) -> str:
        """The sentence on its analysis."""
        now = torch.tensor([self.now], dtype=torch.float64)
        return sentence(result, self.now, AXES, float(self.loss(now)[0]))


CASES = {
    "flat": Case(flat, (0.2, 0.1)),
    "slope": Case(slope, (0.0, 0.3)),
    "edge": Case(edge, (0.6, 0.2)),
    "rough": Case(rough, (0.3, 0.2)),
    "noise": Case(noise, (0.3, 0.2)),
    "twins": Case(twins, (0.05, 0.2)),
    "cliff": Case(cliff, (0.4, 0.1)),
}
# The same slices after what the page says to do, or looked at again.
AGAIN = {
    "flat": Case(decayed, (0.2, 0.1)),
    "edge": Case(edge, (0.6, 0.2), half=2.0),
    "noise": Case(noise, (0.3, 0.2), seed=1),
    "twins": Case(twins, (0.012, 0.0), half=0.04),
}


def draw(case: Case, result: lm.MorseAnalysis, path: Path) -> None:
    """Write the picture of an analysis as a small PNG."""
    figure = lm.plot_basins(result, None, case.now, AXES, verdict=case.said(result))
    png = io.BytesIO()
    figure.savefig(png, dpi=DPI)
    small = Image.open(png).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse and draw the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/strange"), help="folder")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        start, path = time.monotonic(), args.out / f"strange-{name}.png"
        result = CASES[name].analysis()
        draw(CASES[name], result, path)
        took, size = time.monotonic() - start, path.stat().st_size / 1000
        print(f"{path} ({size:.0f} kB, {took:.1f} s): {CASES[name].said(result)}")
        if name in AGAIN:
            print(f"  then: {AGAIN[name].said(AGAIN[name].analysis())}")


if __name__ == "__main__":
    main()
