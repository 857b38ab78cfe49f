"""Colours, settings and wording that all figures share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from lightning_morse._typing import Array
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import short_of_one

ESCAPE_COLOR, DIVERGED_COLOR, DARK = "#c4c4c4", "#3a3a3a", "#222222"
# Okabe and Ito's colour-blind-safe palette, ordered so that neighbours differ most. Black is left
# out (markers and text), and so are greys (what escapes or diverges).
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

# TensorBoard first shows a figure at 400 x 300 pixels, which is the shape of this page, in inches.
# Its text is at least 8 pixels high there: the page is small and its pixels are many.
PAGE, PAGE_DPI = (5.8, 4.35), 140
TEXT, SMALL_TEXT = 9.5, 9.0  # points

N_COLORS = 200  # distinct colours of identities; far more basins than a figure can show apart
# Colours that may extend the palette, in OKLab. Darker ones hide the edge of a marker, lighter ones
# have no visible tint; below the least chroma they read as grey, above the largest they glare.
_LEAST_LIGHTNESS, _LARGEST_LIGHTNESS = 0.4, 0.9
_LEAST_CHROMA, _LARGEST_CHROMA = 0.07, 0.23
_LEVELS_PER_CHANNEL = 13  # of the sRGB lattice they are chosen from
_TINT_COLOR, _TINT_WHITE = 0.42, 0.58  # shares of the colour and of white in the fill of a basin
_WHITE_INK_BELOW = 0.65  # lightness of a background on which white text reads better than black


class _Figure(Figure):
    """A figure that draws itself in this style: artists read rcParams again when drawn."""

    def draw(self, renderer: RendererBase) -> None:
        with figure_style():
            super().draw(renderer)


def figure_style() -> AbstractContextManager[None]:
    """Matplotlib settings of all figures, whatever the user has set."""
    own = {"font.family": "DejaVu Sans", "font.size": 10.5, "hatch.linewidth": 0.8}
    return style.context(["default", own])


def new_figure(width: float, height: float, dpi: int = 100, **options: Any) -> Figure:
    """Make an empty figure, unknown to pyplot; lengths in inches."""
    figure = _Figure(figsize=(width, height), dpi=dpi, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def identity_color(identity: int) -> str:
    """Colour of an attractor's identity, the same in every figure of a run.

    The first seven are the colour-blind-safe ones of Okabe and Ito; each further one is, to the
    eye, as far as possible from all before it and from white, black and grey.

    Args:
        identity: 0, 1, 2, ...

    Returns:
        Hexadecimal; colours repeat from 200 on.

    Example:
        >>> identity_color(0), identity_color(200)
        ('#0072B2', '#0072B2')
    """
    colors = _palette(len(OKABE_ITO) if identity < len(OKABE_ITO) else N_COLORS)
    return colors[identity % len(colors)]


def attractor_colors(
    result: MorseAnalysis, identities: Mapping[int, int] | None = None
) -> dict[int, str]:
    """Colour of each attractor, the same in every figure: :func:`identity_color`.

    Args:
        result: The analysis.
        identities: Identity of each attractor from one analysis to the next, by the number of its
            Morse set; by default their order in this analysis.

    Returns:
        Hexadecimal colours, by the number of the attractor's Morse set.

    Raises:
        ValueError: If the identities are not integers of at least 0, one for each attractor.
    """
    if identities is None:
        identities = {a: k for k, a in enumerate(result.attractors)}
    wrong = set(identities) != set(result.attractors)
    if wrong or any(i != int(i) or i < 0 for i in identities.values()):
        raise ValueError(
            "identities must be a number of at least 0 for each of the attractors "
            f"{result.attractors}, got {dict(identities)!r}"
        )
    return {a: identity_color(identities[a]) for a in result.attractors}


@cache
def _palette(count: int) -> tuple[str, ...]:
    """Extend Okabe and Ito's colours by farthest-point choice in the OKLab colour space."""
    levels = np.linspace(0, 1, _LEVELS_PER_CHANNEL)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > _LEAST_LIGHTNESS) & (lab[:, 0] < _LARGEST_LIGHTNESS)
    usable &= (chroma > _LEAST_CHROMA) & (chroma < _LARGEST_CHROMA)
    rgb, lab = rgb[usable], lab[usable]
    colors = list(OKABE_ITO)
    taken = _oklab(np.array([to_rgb(c) for c in (*colors, "white", "black", ESCAPE_COLOR)]))
    distance = np.linalg.norm(lab[:, None] - taken, axis=2).min(axis=1)
    while len(colors) < count:
        best = int(np.argmax(distance))
        colors.append(to_hex(rgb[best]))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return tuple(colors)


def _oklab(rgb: Array) -> Array:
    """Convert sRGB in [0, 1] to OKLab (Ottosson 2020), where distance follows perception."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    lab: Array = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return lab


def tint(color: str) -> str:
    """Fill of a basin: the colour of its attractor mixed with white."""
    red, green, blue = (_TINT_COLOR * c + _TINT_WHITE for c in to_rgb(color))
    return to_hex((red, green, blue))


def ink(color: str) -> str:
    """Colour of text on a background: black or white, whichever contrasts more."""
    return "white" if _oklab(np.array(to_rgb(color)))[0] < _WHITE_INK_BELOW else "black"


def probability_bound(mu: float) -> str:
    """Write ``mu`` in a title.

    Example:
        >>> probability_bound(0.9599)
        'mu ≥ 0.95'
    """
    return f"mu ≥ {short_of_one(mu)}"


def claimed(result: MorseAnalysis) -> str:
    """What an analysis claims, with its bound; without one where nothing is claimed."""
    return f"{result.claim} · {probability_bound(result.mu)}" if result.mu else result.claim
