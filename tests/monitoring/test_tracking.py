"""Attractors that keep their identity, and changes of basins, where the answer is known."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_morse import AffineSubspace, CubicalGrid, Ladder, MorseAnalysis, MorseSet
from lightning_morse.monitoring.pictures import TOLERANCE, carried
from lightning_morse.monitoring.tracking import MAX_PICTURES, AttractorTracker, Tracked
from lightning_morse.slices.bases import orthonormal_columns
from tests.callback_models import monitor, trainer
from tests.landscapes import HIMMELBLAU_MINIMA, follow, himmelblau, himmelblau_gradient
from tests.towers import with_boxes

STIFF = 20.0  # curvature of the weights beyond the first two


def loss_gradient(theta):
    """Himmelblau's function of two weights, a valley in all others."""
    return np.concatenate([himmelblau_gradient(theta[:, :2]), STIFF * theta[:, 2:]], axis=1)


def loss(theta):
    return himmelblau(theta[:, :2]) + STIFF / 2 * np.square(theta[:, 2:]).sum(1)


def flow(slice_, x, half=np.inf, steps=250):
    """Ends of the flow in a slice, and whether it stayed in the box."""
    origin, D = slice_.origin.numpy(), slice_.directions.numpy()

    def gradient(x):
        return loss_gradient(origin + x @ D.T) @ D

    x, goes_on = np.array(x), np.arange(len(x))
    stayed = np.ones(len(x), dtype=bool)
    for step in range(steps):
        if step % 10 == 0:  # those at rest, or outside, are not followed any further
            moves = np.linalg.norm(gradient(x[goes_on]), axis=1) >= 1e-5
            goes_on = goes_on[stayed[goes_on] & moves]
            if not goes_on.size:
                break
        x[goes_on] = follow(gradient, x[goes_on], steps=1, length=0.1)
        stayed[goes_on] &= (np.abs(x[goes_on]) <= half).all(axis=1)
        x[goes_on] = np.clip(x[goes_on], -2 * half, 2 * half)
    return x, stayed, np.linalg.norm(gradient(x), axis=1) < 1e-3


def analysis(slice_, half=6.0, cells=24, mu=0.99, order=1):
    """Stands in for an analysis: labels by following the flow, undecided where cells differ."""
    grid = CubicalGrid([-half] * 2, [half] * 2, (cells, cells))
    lower, upper = grid.cell_bounds()
    ends, stayed, rests = flow(slice_, 0.5 * (lower + upper), half)
    found = []
    for x in ends[stayed & rests]:
        if all(np.linalg.norm(x - y) > 0.05 for y in found):
            found.append(x)
    at = slice_.origin.numpy() + np.array(found).reshape(-1, 2) @ slice_.directions.numpy().T
    losses = loss(at)
    # A flow may come to rest at a saddle, where only a line of cells goes: those are eroded.
    found = [found[i] for i in np.argsort(order * losses)]
    labels = np.where(stayed, -1, -2)
    for i, y in enumerate(found):
        labels[stayed & rests & (np.linalg.norm(ends - y, axis=1) <= 0.05)] = i
    wide = np.pad(labels.reshape(grid.shape), 1, mode="edge")
    shifts = [wide[i : i + cells, j : j + cells] for i in range(3) for j in range(3)]
    same = np.all([s == shifts[4] for s in shifts], axis=0).ravel()
    labels = np.where(same, labels, -1)
    keep = [i for i in range(len(found)) if (labels == i).any()]
    table = np.array([*[keep.index(i) if i in keep else -1 for i in range(len(found))], -2, -1])
    return made(grid, table[labels], np.array([found[i] for i in keep]).reshape(-1, 2), mu)


def made(grid, labels, centers, mu=0.99):
    n = len(centers)
    own = [np.array([c]) for c in grid.cell_of(centers)] if n else []
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(
            MorseSet(own[i], True, True, 0, centers[i], float(i), 1 / grid.size, mu)
            for i in range(n)
        ),
        graph=nx.empty_graph(n, create_using=nx.DiGraph),
        labels=labels.astype(np.int32),
        diverged=np.zeros(grid.size, dtype=bool),
        exit_volumes=np.zeros((grid.dim, 2)),
        mu=mu,
        confidence=0.95,
        mean_loss=np.ones([n + 1 for n in grid.shape]),
        samples=np.zeros((1, grid.dim)),
        sample_losses=np.zeros(1),
        calibration=1.0,
        surrogate=None,
        seconds={},
        ladder=Ladder(np.array([0.95]), np.arange(n)[None]),
    )


def axes(*vectors, at=(0.0, 0.0, 0.0, 0.0)):
    columns = orthonormal_columns([torch.tensor(v, dtype=torch.float64) for v in vectors])
    return AffineSubspace(torch.tensor(at, dtype=torch.float64), columns)


PLANE = axes((1.0, 0, 0, 0), (0, 1.0, 0, 0))


def turned(angle, lift=0.0, at=(0.0, 0.0, 0.0, 0.0)):
    """The plane turned by an angle in itself, and out of itself."""
    c, s = np.cos(angle), np.sin(angle)
    return axes((c, s, lift, 0.0), (-s, c, 0.0, lift), at=at)


def places(slice_, result, tracked):
    """Weights of each identity, rounded, those of Himmelblau's minima by their number."""
    D = slice_.directions.numpy()
    where = {}
    for number, identity in tracked.identities.items():
        theta = slice_.origin.numpy() + D @ result.morse_sets[number].center
        gaps = np.linalg.norm(HIMMELBLAU_MINIMA - theta[:2], axis=1)
        where[identity] = int(gaps.argmin())
    return where


def line(labels, centers, lower=-4.0, upper=4.0, mu=0.99):
    grid = CubicalGrid([lower], [upper], (len(labels),))
    return made(grid, np.array(labels), np.array(centers, dtype=float).reshape(-1, 1), mu)


LINE = AffineSubspace(torch.zeros(2), torch.tensor([[1.0], [0.0]]))
TWO = line([0, 0, 0, -1, -1, 1, 1, 1], [-2.5, 2.5])


# ------------------------------------------------------------------ barriers between attractors


def at_weights(theta):
    return float(loss(theta.numpy()[None])[0])


def ranged(result, typical=100.0):
    """With sampled losses: 1 % of their median is no barrier, and the largest do not count."""
    return dataclasses.replace(result, sample_losses=np.array([0.0, typical, 1e6]))


def test_attractors_without_a_barrier_between_them_are_the_same_however_slices_turn():
    # The planes share a line only, and the attractors in them lie far from each other.
    far = axes((0, 0, 1.0, 0), (0, 0, 0, 1.0), at=(3.5, 2.4, 0.0, 0.0))
    here = axes((1.0, 0, 0, 0), (0, 1.0, 0, 0), at=(0.0, 0.0, 0.1, 0.1))
    one, two = ranged(analysis(here)), ranged(analysis(far, half=0.5))
    assert len(two.attractors) == 1
    for given, same in ((None, False), (at_weights, True)):
        tracker = AttractorTracker()
        first = tracker.update(here, one, [3.0, 2.0], given)
        second = tracker.update(far, two, [0.1, 0.1], given)
        where = places(here, one, first)
        near = next(i for i, minimum in where.items() if minimum == 0)
        assert (second.identities[0] == near) == same


def test_a_barrier_parts_what_the_slices_would_call_the_same():
    def between(theta):  # a ridge between the two attractors, narrower than the room around them
        return (
            50.0 * float(np.exp(-(((float(theta[0]) - 0.25) / 0.1) ** 2)))
            + 0.1 * float(theta[0]) ** 2
        )

    old, new = ranged(line([0] * 8, [0.0])), ranged(line([0] * 8, [0.5]))
    for given, same in ((None, True), (between, False)):
        tracker = AttractorTracker()
        before = tracker.update(LINE, old, [0.1], given)
        after = tracker.update(LINE, new, [0.6], given)
        assert (before.identities == after.identities) == same
        assert after.switch is None  # no slice shows two basins


def test_a_change_of_basins_counts_only_with_a_barrier():
    def wells(theta):
        return float((theta[0] ** 2 - 6.25) ** 2)

    def flat(theta):
        return 0.0

    both = ranged(TWO)
    for given, switches in ((wells, 1), (flat, 0), (None, 1)):
        tracker = AttractorTracker()
        tracker.update(LINE, both, [-2.0], given)
        tracker.update(LINE, both, [2.0], given)
        assert tracker.switches == switches


def test_few_lines_are_asked_for_and_the_attractor_of_the_weights_comes_first():
    half = 6.0
    result = ranged(analysis(PLANE, half))
    assert len(result.attractors) == 4
    tracker = AttractorTracker()
    first = tracker.update(PLANE, result, [-2.8, 3.1])
    asked = []
    steps = tracker.questions(turned(0.3), ranged(analysis(turned(0.3), half)), [-1.0, 4.0])
    segment = next(steps)
    while True:
        asked.append(segment)
        try:
            segment = steps.send("apart")
        except StopIteration as done:
            found = done.value
            break
    assert len(asked) == 4
    # The first is about the weights' attractor and the one that they led to before.
    last = next(n for n, i in first.identities.items() if i == first.current)
    start = PLANE.origin + PLANE.directions @ torch.tensor(result.morse_sets[last].center)
    assert torch.allclose(asked[0].start, start)
    first_end, second_end, third_end = (one.start + one.way for one in asked[:3])
    assert torch.allclose(first_end, second_end)
    assert not torch.allclose(second_end, third_end)
    assert found.current not in first.identities.values()


# ---------------------------------------------------------------------------- same attractor


def test_a_moving_box_and_turning_axes_keep_all_identities():
    tracker, seen = AttractorTracker(), []
    rng = np.random.default_rng(0)
    for _ in range(8):
        at = (*rng.uniform(-1, 1, 2), 0.0, 0.0)
        slice_ = turned(rng.uniform(0, 2 * np.pi), at=at)
        # Which is the deepest minimum is open, all are 0: numbers mean nothing here.
        result = analysis(slice_, half=8.0, order=rng.choice([-1, 1]))
        seen.append(places(slice_, result, tracker.update(slice_, result, np.zeros(2))))
    assert sorted(seen[0]) == [0, 1, 2, 3]
    assert all(s == seen[0] for s in seen)


def test_a_plane_that_turns_slowly_out_of_itself_keeps_them():
    tracker, seen = AttractorTracker(), []
    for step in range(8):
        slice_ = turned(0.1 * step, lift=0.03 * step)
        result = analysis(slice_, half=8.0)
        seen.append(places(slice_, result, tracker.update(slice_, result, np.zeros(2))))
    assert all(s == seen[0] for s in seen)


def test_slices_far_apart_share_no_attractor():
    tracker, room = AttractorTracker(), 4.0  # the half-width; the attractors are 5 apart
    for off, expected in (
        (0.0, {0: 0, 1: 1}),
        (2.2 * TOLERANCE * room, {0: 2, 1: 3}),
        (1.3 * TOLERANCE * room, {0: 2, 1: 3}),  # near the last one alone
        (0.9 * TOLERANCE * room, {0: 2, 1: 3}),  # near both: the last one goes first
        (-0.9 * TOLERANCE * room, {0: 0, 1: 1}),  # near the first one alone
    ):
        beside = AffineSubspace(torch.tensor([0.0, off]), LINE.directions)
        assert tracker.update(beside, TWO, [-2.0]).identities == expected


def test_the_room_is_that_to_the_nearest_attractor():
    crowded = line([0, 0, 0, 0, 1, 1, 1, 1], [-0.5, 0.5])
    for off, same in ((0.24, True), (0.26, False)):
        tracker = AttractorTracker()
        first = tracker.update(LINE, crowded, [0.0]).identities
        beside = AffineSubspace(torch.tensor([0.0, off]), LINE.directions)
        assert (tracker.update(beside, crowded, [0.0]).identities == first) is same


def test_two_attractors_that_swap_numbers():
    swapped = line([1, 1, 1, -1, -1, 0, 0, 0], [2.5, -2.5])
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    tracked = tracker.update(LINE, swapped, [-2.0])
    assert tracked.identities == {0: 1, 1: 0}
    assert (tracked.current, tracked.switch) == (0, None)


def test_an_identity_is_lost_and_found_again():
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    for _ in range(5):
        lost = tracker.update(LINE, line([0, 0, 0, -1, -1, -1, -1, -1], [-2.5]), [-2.0])
        assert lost.identities == {0: 0}
    assert tracker.update(LINE, TWO, [-2.0]).identities == {0: 0, 1: 1}


def test_what_merges_keeps_one_identity_and_no_change_counts():
    """The merged one has its centre in the right basin, so the left identity is lost."""
    merged = line([0] * 8, [2.5])
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    tracked = tracker.update(LINE, merged, [-1.9])
    assert (tracked.identities, tracked.current, tracked.switch) == ({0: 1}, 1, None)
    parted = tracker.update(LINE, TWO, [-1.8])  # and found again
    assert (parted.identities, parted.current, parted.switch) == ({0: 0, 1: 1}, 0, None)


def test_what_splits_keeps_the_identity_where_the_old_centre_goes():
    tracker = AttractorTracker()
    assert tracker.update(LINE, line([0] * 8, [2.5]), [-2.0]).identities == {0: 0}
    tracked = tracker.update(LINE, TWO, [-2.0])
    assert (tracked.identities, tracked.current, tracked.switch) == ({0: 1, 1: 0}, 1, None)


def test_another_network_begins_anew():
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    wider = AffineSubspace(torch.zeros(3), torch.eye(3)[:, :1])
    tracked = tracker.update(wider, TWO, [2.0])
    assert (tracked.identities, tracked.switch) == ({0: 2, 1: 3}, None)


def test_what_is_kept_is_bounded():
    tracker = AttractorTracker()
    for k in range(12):  # every slice far from all others: nothing is ever recognised
        beside = AffineSubspace(torch.tensor([0.0, 100.0 * k]), LINE.directions)
        tracker.update(beside, TWO, [-2.0 if k == 0 else 0.5])
        assert len(tracker._pictures) <= MAX_PICTURES
    assert tracker._pictures[0].home == 0  # that of the last certain basin stays
    for _ in range(3):
        tracker.update(beside, TWO, [-2.0])
    assert len(tracker._pictures) <= MAX_PICTURES


# --------------------------------------------------------------------------- change of basins


def test_a_change_of_basins_in_a_fixed_slice_counts_once():
    tracker = AttractorTracker()
    switches = [tracker.update(LINE, TWO, [x]).switch for x in (-2.0, -1.5, 1.5, 2.0, 2.5)]
    assert switches == [None, None, (0, 1), None, None]
    assert tracker.switches == 1


def test_a_change_over_undecided_cells_counts_when_it_is_certain():
    tracker = AttractorTracker()
    switches = [tracker.update(LINE, TWO, [x]).switch for x in (-2.0, -0.5, 0.5, 1.5, -1.5)]
    assert switches == [None, None, None, (0, 1), (1, 0)]


def test_a_way_out_of_the_box_and_into_another_basin_counts():
    tracker = AttractorTracker()
    found = [tracker.update(LINE, TWO, [x]) for x in (-2.0, 9.0, 1.5)]
    assert [t.current for t in found] == [0, -2, 1]
    assert [t.switch for t in found] == [None, None, (0, 1)]


def test_one_slice_that_shows_both_is_enough():
    """The second box has lost the old attractor; the first one shows where the weights went."""
    left = line([-2, -1, -1, -1, -1, 0, 0, 0], [2.5])
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    assert tracker.update(LINE, left, [2.0]).switch == (0, 1)


def test_nothing_counts_where_no_slice_shows_both():
    tracker = AttractorTracker()
    tracker.update(LINE, line([0] * 4, [-2.5], -4, 0), [-2.0])
    tracked = tracker.update(LINE, line([0] * 4, [2.5], 0, 4), [2.0])
    assert (tracked.current, tracked.switch) == (1, None)


def test_nothing_counts_where_the_slices_contradict_each_other():
    """The old picture has both points in one basin, the new one in two."""
    old = line([0, 0, 0, 0, 0, 0, -1, 1], [-2.5, 3.5])
    new = line([0, 0, 0, -1, -1, 1, 1, 1], [-2.5, 3.5])
    tracker = AttractorTracker()
    assert tracker.update(LINE, old, [-2.0]).current == 0
    tracked = tracker.update(LINE, new, [1.5])
    assert (tracked.identities, tracked.current) == ({0: 0, 1: 1}, 1)
    assert tracked.switch is None


def test_an_analysis_whose_samples_refute_it_is_certain_of_no_basin():
    refuted = line([0, 0, 0, -1, -1, 1, 1, 1], [-2.5, 2.5], mu=0.0)
    tracker = AttractorTracker()
    tracker.update(LINE, TWO, [-2.0])
    tracked = tracker.update(LINE, refuted, [2.0])
    assert (tracked.identities, tracked.current, tracked.switch) == ({0: 0, 1: 1}, 1, None)
    assert tracker.update(LINE, TWO, [2.0]).switch == (0, 1)  # now it is certain


def random_slice(rng, at):
    return axes(*rng.normal(size=(2, 4)), at=at)


@pytest.mark.slow
def test_turning_a_slice_about_weights_that_rest_never_counts():
    differ = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        tracker, before = AttractorTracker(), -1
        at = (*rng.uniform(-4, 4, 2), *rng.uniform(-1, 1, 2))
        for _ in range(6):
            slice_ = random_slice(rng, at)
            tracked = tracker.update(slice_, analysis(slice_), np.zeros(2))
            assert tracked.switch is None
            differ += before >= 0 and tracked.current >= 0 and before != tracked.current
            before = tracked.current
    assert differ > 10  # certain basins, of other identity, because the slice has turned


@pytest.mark.slow
def test_a_change_that_counts_is_one_in_the_flow_of_one_slice():
    counted = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        tracker, earlier = AttractorTracker(), []
        at, columns = np.zeros(4), rng.normal(size=(2, 4)) * [1, 1, 0.1, 0.1]
        for _ in range(6):
            at = at + rng.normal(size=4) * [2, 2, 0.1, 0.1]
            at[:2] = np.clip(at[:2], -4, 4)
            columns = columns + rng.normal(size=(2, 4)) * 0.1
            slice_ = axes(*columns, at=tuple(at))
            tracked = tracker.update(slice_, analysis(slice_, half=8.0), np.zeros(2))
            here = (slice_, torch.tensor(at), tracked.current)
            if tracked.switch:
                counted += 1
                then = next(e for e in reversed(earlier) if e[2] >= 0)
                assert tracked.switch == (then[2], here[2])
                apart = []
                for s in (then[0], here[0]):
                    x = torch.stack([s.project(then[1]), s.project(here[1])]).numpy()
                    a, b = flow(s, x, 8.0)[0]
                    apart.append(np.linalg.norm(a - b) > 0.05)
                assert any(apart)
            earlier.append(here)
    assert counted > 5


# ---------------------------------------------------------------------- arithmetic and state


def test_distances_between_slices_keep_their_digits():

    rng = np.random.default_rng(0)
    n = (1 << 16) + 100  # more than one block
    D = orthonormal_columns(torch.tensor(rng.normal(size=(n, 4))))
    one = AffineSubspace(torch.tensor(rng.normal(size=n)), D[:, :2])
    two = AffineSubspace(
        one.point([3.0, 4.0]) + 1e-6 * D[:, 2],
        orthonormal_columns(torch.stack([D[:, 0] + D[:, 1], D[:, 1] + 1e-3 * D[:, 3]], dim=1)),
    )
    x = rng.normal(size=(5, 2))
    at, off = carried(one, x, two)
    for i in range(5):
        theta = one.point(x[i])
        assert np.allclose(at[i], two.project(theta), rtol=0, atol=1e-10)
        assert off[i] == pytest.approx(float(two.residual(theta)), rel=1e-6)
    same, off = carried(one, x, AffineSubspace(one.point([3.0, 4.0]), one.directions))
    assert np.allclose(same, x - [3.0, 4.0], rtol=0, atol=1e-10)
    assert off.max() < 1e-10


def test_a_state_goes_through_a_file_and_on_as_before(tmp_path):
    rng = np.random.default_rng(3)
    steps = []
    for k in (0, 0, 3, 2, 2, 1):
        slice_ = turned(rng.uniform(0, 1), lift=rng.uniform(0, 0.1))
        weights = torch.tensor([*HIMMELBLAU_MINIMA[k], 0.0, 0.0])
        steps.append((slice_, analysis(slice_, half=8.0), slice_.project(weights).numpy()))
    through = AttractorTracker()
    found = [through.update(*step) for step in steps]
    assert through.switches == 3
    for stop in range(6):
        tracker = AttractorTracker()
        for step in steps[:stop]:
            tracker.update(*step)
        torch.save(tracker.state_dict(), tmp_path / "state.pt")
        after = AttractorTracker()
        after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert [after.update(*step) for step in steps[stop:]] == found[stop:]
        assert after.switches == through.switches


# The outermost box decides nothing; the one inside, from -1 to 1, has the basins of 0 and 1.
OPEN = line([-1] * 8, [-0.5, 0.5])
TOWER = with_boxes(
    OPEN, [([-1.0], [1.0], 0, 16)], lambda x: (x[:, 0] > 0).astype(int), lambda x: x.sum(-1)
)
DEEPER = with_boxes(
    OPEN,
    [([-1.5], [1.5], 0, 16), ([-0.5], [0.75], 1, 16)],
    lambda x: np.where(np.abs(x[:, 0]) > 0.6, -1, (x[:, 0] > 0).astype(int)),
    lambda x: x.sum(-1),
)


def test_the_innermost_box_says_where_the_weights_are():
    tracker = AttractorTracker()
    assert tracker.update(LINE, OPEN, [0.6]).current == -1
    tracker = AttractorTracker()
    assert tracker.update(LINE, TOWER, [0.6]).current == 1
    assert tracker.update(LINE, TOWER, [-0.6]) == Tracked({0: 0, 1: 1}, 0, (1, 0))
    assert tracker.update(LINE, TOWER, [3.0]).current == -1
    assert tracker.update(LINE, TOWER, [9.0]).current == -2
    assert tracker.switches == 1


def test_attractors_keep_their_identity_through_boxes_inside():
    """Of boxes alone that are open outside, no attractor could be seen in another analysis."""
    swapped = line([-1] * 8, [0.5, -0.5])
    swapped = with_boxes(
        swapped, [([-1.0], [1.0], 0, 32)], lambda x: (x[:, 0] < 0).astype(int), lambda x: x.sum(-1)
    )
    tracker = AttractorTracker()
    tracker.update(LINE, TOWER, [0.6])
    assert tracker.update(LINE, swapped, [0.6]) == Tracked({0: 1, 1: 0}, 1, None)
    tracker.update(LINE, DEEPER, [0.4])
    tracker = AttractorTracker()
    tracker.update(LINE, OPEN, [0.6])
    assert tracker.update(LINE, OPEN, [0.6]).identities == {0: 2, 1: 3}


def test_a_state_holds_all_boxes_and_an_older_one_the_outermost(tmp_path):
    tracker = AttractorTracker()
    tracker.update(LINE, DEEPER, [0.4])
    torch.save(tracker.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    (picture,) = state["pictures"]
    assert [len(box["labels"]) < box["shape"][0] for box in picture["inner"]] == [True, True]
    after = AttractorTracker()
    after.load_state_dict(state)
    assert after.update(LINE, TOWER, [-0.4]) == Tracked({0: 0, 1: 1}, 0, (1, 0))
    del picture["inner"]
    older = AttractorTracker()
    older.load_state_dict(state)
    assert older.update(LINE, TOWER, [-0.4]) == Tracked({0: 2, 1: 3}, 2, None)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match=r"same dimension, got 2, 1 and a point of shape \(1,\)"):
        AttractorTracker().update(PLANE, TWO, [0.0])
    with pytest.raises(ValueError, match=r"got 1, 1 and a point of shape \(2,\)"):
        AttractorTracker().update(LINE, TWO, [0.0, 0.0])


# ------------------------------------------------------------------------------------- a run


class Himmelblau(pl.LightningModule):
    """Two weights: the slice is all there is. They go where they are put."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(HIMMELBLAU_MINIMA[0], dtype=torch.float32))

    def training_step(self, batch, batch_idx):
        return himmelblau(self.weights[None])[0] + 0 * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Push(Callback):
    def __init__(self, minima):
        self.minima = minima

    def on_train_epoch_start(self, trainer, pl_module):
        where = HIMMELBLAU_MINIMA[self.minima[trainer.current_epoch]] + 0.1
        with torch.no_grad():
            pl_module.weights.copy_(torch.tensor(where))


def pushed(root, minima, epochs, ckpt_path=None, keep=False):
    watch = monitor(directions=torch.eye(2), extent=5.0, n_samples=64, resolution=48)
    keeper = [ModelCheckpoint(dirpath=root, save_last=True)] if keep else []
    runner = trainer(
        root, watch, Push(minima), *keeper, max_epochs=epochs, enable_checkpointing=keep
    )
    runner.fit(Himmelblau(), DataLoader(torch.zeros(2, 1)), ckpt_path=ckpt_path)
    return watch


def halves(*centers, mu=0.99, undecided_from=np.inf):
    """Attractors, the last of which has all that lies to the right."""
    grid = CubicalGrid([-6.0] * 2, [6.0] * 2, (24, 24))
    x = grid.cell_centers()[:, 0]
    labels = np.where(x > 1.5, len(centers) - 1, 0)
    labels[x > undecided_from] = -1
    return made(grid, labels, np.array(centers, dtype=float).reshape(-1, 2), mu)


LEFT, RIGHT = (0.25, 0.25), (3.25, 0.25)


@pytest.mark.parametrize(
    ("first", "second", "forks"),
    [
        (halves(LEFT), halves(LEFT, RIGHT), ((0, 1),)),
        # That place was not certain, or nothing was; or nothing is.
        (halves(LEFT, undecided_from=2.0), halves(LEFT, RIGHT), ()),
        (halves(LEFT, mu=0.0), halves(LEFT, RIGHT), ()),
        (halves(LEFT), halves(LEFT, RIGHT, mu=0.0), ()),
        # The old attractor is not among those of the new slice.
        (halves(LEFT), halves(RIGHT), ()),
        (halves(LEFT, RIGHT), halves(LEFT, RIGHT), ()),
    ],
)
def test_a_basin_that_has_become_two_is_a_fork(first, second, forks):
    tracker = AttractorTracker()
    assert tracker.update(PLANE, first, LEFT).forks == ()
    found = tracker.update(PLANE, second, LEFT)
    assert found.forks == forks
    assert tracker.forks == len(forks)
    # What is known by then is no fork again, and the count goes on after a checkpoint.
    after = AttractorTracker()
    after.load_state_dict(tracker.state_dict())
    assert after.update(PLANE, second, LEFT).forks == ()
    assert after.forks == len(forks)


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_run_pushed_into_another_basin_changes_once_and_goes_on_from_a_checkpoint(tmp_path):
    minima = [0, 0, 3, 3]
    through = pushed(tmp_path / "a", minima, 4)
    rows = through.history
    assert not any(row["morse/failed"] for row in rows)
    assert [row["morse/basin_switches"] for row in rows] == [0, 0, 1, 1]
    current = [row["morse/identity_current"] for row in rows]
    assert current[0] == current[1] != current[2] == current[3]
    assert min(current) >= 0
    for row in rows:
        total = sum(row["basins"].values()) + row["morse/undecided"] + row["morse/escape"]
        assert total == pytest.approx(1)
    assert set(through.figures()) == {"basins", "graph", "merge", "timeline"}
    pushed(tmp_path / "b", minima, 2, keep=True)
    after = pushed(tmp_path / "c", minima, 4, ckpt_path=str(tmp_path / "b" / "last.ckpt"))
    clocks = ("morse/seconds", "morse/overhead")
    for a, b in zip(after.history, rows, strict=True):
        assert {k: a[k] for k in a if k not in clocks} == {k: b[k] for k in b if k not in clocks}
    assert after._account.view.identities == through._account.view.identities
