"""How the samples of an analysis are spent."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_morse.analysis.design import FEWEST_SAMPLES

# Most samples, over their usual number, as long as the point of interest is undecided.
_MOST = 2.5
# Up to about so many samples one process is as good as several, by dimension (docs/decisions.md).
ENOUGH = {1: 64, 2: 128, 3: 384}
_ENOUGH_IN_HIGHER_DIMENSION = 512
# The same for the picture of all on three axes or more, where what boxes have in common is worth
# more: with boxes from 384 samples on, 1 or 2 of five minima were found, with one process 4 or 5.
_ENOUGH_FOR_PICTURE = 1024
# From so many samples on an outermost box that may be cut into parts with processes of their own
# takes this share of them before boxes are opened inside it (docs/decisions.md).
_MANY, _SHARE_OF_OUTERMOST = 1000, 0.6
# A batch is a fifth of the samples, within these limits, as each batch costs a picture: of 33
# slices of real networks with 64 samples batches of 12 decided as many as batches of 6, in a third
# less time. On three axes pictures take longest: there a batch is this part of what a box holds.
_PICTURES, LEAST_BATCH, _MOST_BATCH, _PICTURES_ON_THREE = 5, 6, 12, 6
# For the picture of all a batch is at least this share of what the box holds already: there are
# then few pictures however many samples.
_SHARE_OF_BATCH = 1 / 3
# Where that picture is what was asked for, and one box has room for all samples, it is drawn more
# often: on planes through three solutions a point and a half more was certain (docs/decisions.md).
_SHARE_OF_BATCH_FOR_PICTURE, _MOST_BATCH_FOR_PICTURE = 1 / 8, 8


@dataclass(frozen=True)
class Plan:
    """How the samples of an exploration are spent.

    Attributes:
        usual: Samples of an analysis; no more are spent on the picture.
        most: Most samples there may be, as long as the point of interest is undecided.
        first: Samples that fill the outermost box.
        full: Samples of the outermost box after which a smaller one is opened.
        full_inside: The same for the boxes inside.
        full_picture: Samples of the outermost box after which, for the picture, boxes are opened
            where it is undecided.
        full_picture_inside: The same for the boxes inside.
        first_inside: Samples that fill a new box.
        batch: Samples placed before the picture is looked at again.
        share_of_batch: For the picture of all they are at least this share of what the box holds.
    """

    usual: int
    most: int
    first: int
    full: int
    full_inside: int
    full_picture: int
    full_picture_inside: int
    first_inside: int
    batch: int
    share_of_batch: float

    @classmethod
    def of(
        cls, n_samples: int, dim: int, most: int | None = None, *, for_picture: bool = False
    ) -> Plan:
        """The plan for a usual number of samples on so many axes, and at most so many samples.

        Args:
            n_samples: The usual number.
            dim: Number of axes.
            most: The largest number; by default a multiple of the usual one.
            for_picture: Whether the picture of all is what was asked for, and not where a point
                leads: then few samples are placed a few at a time, and where they are many the
                outermost box may have several processes.
        """
        enough = ENOUGH.get(dim, _ENOUGH_IN_HIGHER_DIMENSION)
        fewest = min(n_samples, FEWEST_SAMPLES)
        full_picture = enough if dim < 3 else _ENOUGH_FOR_PICTURE
        full_picture_inside = full_picture // 2
        if for_picture and n_samples >= _MANY:
            full_picture = max(full_picture, int(_SHARE_OF_OUTERMOST * n_samples))
        batch, share = min(_MOST_BATCH, n_samples // _PICTURES), _SHARE_OF_BATCH
        if dim > 2:
            batch = min(n_samples, enough) // _PICTURES_ON_THREE
        elif for_picture and n_samples <= enough:
            batch, share = min(_MOST_BATCH_FOR_PICTURE, batch), _SHARE_OF_BATCH_FOR_PICTURE
        return cls(
            usual=n_samples,
            most=int(_MOST * n_samples) if most is None else most,
            first=max(fewest, min(n_samples, enough) // 4),
            full=max(fewest, 3 * min(n_samples, enough) // 8),
            full_inside=max(fewest, 5 * min(n_samples, enough) // 16),
            full_picture=full_picture,
            full_picture_inside=full_picture_inside,
            first_inside=max(8, min(n_samples, enough) // 8),
            batch=max(LEAST_BATCH, batch),
            share_of_batch=share,
        )
