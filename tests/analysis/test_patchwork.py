import dataclasses

import numpy as np
import pytest
import torch

import lightning_morse as lm
from lightning_morse.analysis import drawing, leaves, surrogates
from lightning_morse.analysis.charts import Patch
from lightning_morse.analysis.conclusion import final_portrait
from lightning_morse.analysis.confidences import confidences
from lightning_morse.analysis.descent import descend, undecided_minima
from lightning_morse.analysis.design import design
from lightning_morse.analysis.evidence import evidence_for
from lightning_morse.analysis.patchwork import MARGIN, Patchwork, shares_of
from lightning_morse.analysis.phase_portrait import phase_portrait
from lightning_morse.analysis.pipeline import analyze_samples
from lightning_morse.analysis.placement import choose_batch
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import Samples, hold_out, nearest_diverged
from lightning_morse.analysis.settings import checked_settings
from lightning_morse.analysis.tower import Predicted, Tower
from lightning_morse.gp.kinks import kinked_weight
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.stopwatch import Stopwatch

LOWER, UPPER = np.full(2, -1.5), np.full(2, 1.5)


def two_scales(x):
    """Two minima; wrinkled on the right, a hundred times as steep there."""
    smooth = (x[:, 0].square() - 1).square() + x[:, 1].square()
    return smooth * (1 + 99 * torch.sigmoid(8 * x[:, 0]))


def gradient(points):
    x = torch.from_numpy(points).requires_grad_()
    return torch.autograd.grad(two_scales(x).sum(), x)[0].numpy()


def values(loss, points):
    return loss(torch.from_numpy(points)).numpy()


def tower_of(n, loss=two_scales, cells=32):
    settings = checked_settings(LOWER, UPPER, n, cells, 0.95, 0, "proved")
    points = design(LOWER, UPPER, n, 0)
    return Tower(settings, Samples(points, values(loss, points)), may_be_cut=True)


@pytest.fixture(scope="module")
def tower():
    """A box with five hundred samples, judged."""
    made = tower_of(500)
    grid = CubicalGrid(LOWER, UPPER, (1, 1))
    surrogates.judge(made, 0, hold_out(lambda x: two_scales(x), made.boxes[0].first, grid, 8, 0))
    return made


@pytest.fixture(scope="module")
def portrait(tower):
    return final_portrait(tower, Stopwatch()).portrait


def test_a_box_is_cut_where_samples_are_many(tower):
    made = surrogates.fitted(tower, 0)
    assert isinstance(made, leaves.Parts)
    assert len(made.parts) >= 6
    owner = np.zeros(made.grid.shape, dtype=int)
    for part in made.parts:
        (a, b), (c, d) = part.leaf.first, part.leaf.last
        owner[a:c, b:d] += 1
        assert len(part.leaf.seen) < 260
    assert (owner == 1).all()
    few = tower_of(leaves.MOST_FOR_ONE)
    assert not leaves.has_leaves(few, 0)
    few.may_be_cut = False
    few.add(0, *few.boxes[0].samples.__dict__.values())
    assert not leaves.has_leaves(few, 0)


def test_labels_are_those_of_the_true_flow(portrait):
    (chart,) = portrait.charts
    assert isinstance(chart, Patchwork)
    assert len(portrait.found.attractors) == 2
    assert (portrait.labels >= 0).mean() > 0.5
    rng = np.random.default_rng(0)
    cells = rng.choice(np.flatnonzero(portrait.labels >= 0), 200)
    x = portrait.nested.cell_centers()[cells]
    for _ in range(4000):
        slope = gradient(x)
        x = x - 0.003 * slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 0.3)
    assert np.abs(np.abs(x[:, 0]) - 1).max() < 0.05
    right = {
        a: portrait.nested.cell_centers()[s].mean(axis=0)[0] > 0
        for a, s in zip(portrait.found.attractors, portrait.found.morse_sets, strict=False)
    }
    assert all(
        right[label] == (end > 0)
        for label, end in zip(portrait.labels[cells].tolist(), x[:, 0].tolist(), strict=True)
    )


def test_the_level_adds_up_over_the_parts_and_each_band_is_as_wide(tower, portrait):
    (chart,) = portrait.charts
    bands = [patch.chart.band for patch in chart.patches]
    assert chart.failure == pytest.approx(sum(1 - band.level for band in bands))
    assert chart.failure <= 0.05
    for halvings in {band.halvings for band in bands}:
        alike = [band.c for band in bands if band.halvings == halvings]
        assert max(alike) == pytest.approx(min(alike), rel=1e-3)
    assert shares_of([1, 3]).tolist() == [0.25, 0.75]
    ladder, each, together = confidences(portrait, tower)
    assert len(ladder.levels) == 1  # blocks of several parts are not followed
    assert (each >= portrait.level).all()
    assert together >= portrait.level


def test_one_part_that_is_all_says_what_its_chart_says():
    made = tower_of(60)
    settings, grid = made.settings, made.settings.grid
    chart = drawing.chart_of(made, 0, grid, 1.0, Stopwatch())
    patch = Patch(chart, (0, 0), grid.shape, (0, 0), grid.shape)
    alone = Patchwork.of(grid, [patch])
    some = np.arange(40)
    for one, other in (
        (alone.box_images, chart.box_images),
        (alone.sharpened(some), chart.sharpened(some)),
    ):
        for field in dataclasses.fields(one):
            assert (getattr(one, field.name) == getattr(other, field.name)).all()
    failure, nested = settings.failure_beside_band, NestedGrid.of(grid)
    found, expected = (phase_portrait(nested, [c], failure, Stopwatch()) for c in (alone, chart))
    assert (found.labels == expected.labels).all()
    assert found.level == expected.level
    assert (found.settled.resolved == expected.settled.resolved).all()


def test_a_flight_that_leaves_the_margin_ends_within_what_it_sweeps(portrait):
    (chart,) = portrait.charts
    images, grid = chart.box_images, chart.grid
    for patch in chart.patches:
        own = patch.chart.grid
        low, up = images.lower[patch.cells], images.upper[patch.cells]
        inner = (own.lower > grid.lower), (own.upper < grid.upper)
        # Nothing is said of where a trajectory is once it has left the margin.
        assert (low >= own.lower - 1e-9)[:, inner[0]].all()
        assert (up <= own.upper + 1e-9)[:, inner[1]].all()
        assert (np.array(patch.before) <= MARGIN).all()
        # Faces that are none of the box are none to leave through.
        assert not images.exits[patch.cells][:, inner[0], 0].any()
        assert not images.exits[patch.cells][:, inner[1], 1].any()
        stops = patch.chart.box_images.exits[patch.inside][:, inner[0], 0].any(axis=1)
        swept = patch.chart.box_images.swept_lower[patch.inside]
        assert (low <= swept + 1e-9)[stops].all()


def test_where_the_samples_refute_a_part_nothing_is_said_of_it_alone(tower, portrait):
    (chart,) = portrait.charts
    # On the smooth side, where nothing comes from the other one.
    number = int(np.argmin([patch.chart.grid.lower.sum() for patch in chart.patches]))
    patches = list(chart.patches)
    void = dataclasses.replace(patches[number].chart, trusted=False)
    patches[number] = dataclasses.replace(patches[number], chart=void)
    rest = Patchwork(chart.grid, tuple(patches), chart.shares)
    cells = patches[number].cells
    assert rest.failure < chart.failure
    assert rest.critical[cells].all()
    images, (low, up) = rest.box_images, chart.grid.cell_bounds()
    assert (images.lower[cells] == low[cells]).all()
    assert (images.upper[cells] == up[cells]).all()
    failure = tower.settings.failure_beside_band
    found = phase_portrait(portrait.nested, [rest], failure, Stopwatch())
    assert (found.labels[cells] == -1).all()
    assert (found.labels >= 0).any()


def test_held_out_derivatives_count_against_their_part_alone():
    made = tower_of(500)
    before = surrogates.fitted(made, 0)
    start = made.boxes[0].samples.points[:2]
    end = start + 1e-3
    losses = values(two_scales, end) + np.array([5.0, 0.0])  # one that no process expects
    given = Samples(start, values(two_scales, start)), Samples(end, losses)
    leaves.judge(made, lambda: pytest.fail("not asked"), *given, 1.0)
    after = surrogates.fitted(made, 0)
    raised = after.factor_at(start) / before.factor_at(start)
    there = before.factor_at(made.boxes[0].samples.points)
    now = after.factor_at(made.boxes[0].samples.points)
    assert raised[0] > 2
    assert after.worst.factor == now.max() > 2
    assert (now == there).mean() > 0.7


@pytest.mark.slow
def test_on_a_flat_floor_the_process_of_the_box_stands_in():
    def floor(x):
        return torch.relu(x[:, 0]).square() + 0.3 * torch.relu(x[:, 0]) * x[:, 1].square()

    made = tower_of(600, floor)
    whole = surrogates._fit(made, 0)
    parts = surrogates.fitted(made, 0).parts
    flat = [p for p in parts if not p.leaf.has_own]
    assert flat
    assert all(len(p.model.surrogate.y) == len(whole.surrogate.y) for p in flat)
    result = analyze_samples(*made.boxes[0].samples.__dict__.values(), LOWER, UPPER, 32)
    assert result.surrogate.leaves == len(parts)


def test_samples_that_diverge_are_the_exterior_of_their_part():
    made = tower_of(500)
    box = made.boxes[0]
    corner = (box.samples.points > 1.2).all(axis=1)
    box.samples = Samples(box.samples.points, np.where(corner, np.nan, box.samples.losses))
    found = final_portrait(made, Stopwatch()).portrait
    cell = found.nested.cell_of(np.array([[1.45, 1.45], [-1.0, 0.0]]))
    assert found.diverged[cell].tolist() == [True, False]


def test_more_samples_are_placed_in_each_part_as_far_as_it_is_open(tower):
    grid = CubicalGrid(LOWER, UPPER, (32, 32))
    sketch = drawing.sketch(tower, grid, Stopwatch())
    rng = np.random.default_rng(0)
    places = rng.uniform(LOWER, UPPER, (400, 2))
    only = np.zeros(sketch.nested.size, dtype=bool)
    only[sketch.charts[0].patches[0].cells] = True
    chosen = choose_batch(sketch, 0, places, 12, rng, only)
    assert len({tuple(p) for p in chosen.tolist()}) == len(chosen) == 12
    home = sketch.charts[0].part_of(chosen)
    assert (home == 0).sum() >= 9
    # Nothing is drawn anew where nothing has changed.
    again = drawing.sketch(tower, grid, Stopwatch())
    assert all(
        a.chart is b.chart
        for a, b in zip(sketch.charts[0].patches, again.charts[0].patches, strict=True)
    )


def test_the_mean_flow_goes_on_from_part_to_part(portrait):
    way = descend(portrait, np.array([0.4, 1.4]))
    assert not way.leaves
    assert np.abs(way.end - [1.0, 0.0]).max() < 0.1
    assert len(set(portrait.charts[0].part_of(way.path))) > 1
    # Minima are found once, whatever charts reach over them.
    everything = dataclasses.replace(portrait, labels=np.full_like(portrait.labels, -1))
    ends = np.array([point for _, point, _ in undecided_minima(everything)])
    assert np.abs(np.abs(ends) - [1.0, 0.0]).max() < 0.1
    assert len(ends) == 2


@pytest.mark.slow
def test_samples_outside_the_box_are_near_the_part_beside_them():
    points = design(LOWER, UPPER, 450, 1)
    points[3] = [1.6, 0.2]
    result = analyze_samples(points, values(two_scales, points), LOWER, UPPER, 32)
    assert result.surrogate.leaves > 3


def test_cells_nearest_to_a_diverged_sample_are_those_of_the_whole_grid():
    made = tower_of(500)
    box = made.boxes[0]
    losses = box.samples.losses.copy()
    losses[40:60] = np.nan
    box.samples = Samples(box.samples.points, losses)
    grid = made.settings.grid
    drawn = drawing.chart_of(made, 0, grid, 1.0, Stopwatch())
    assert (drawn.diverged == nearest_diverged(grid, made.seen_by(0))).all()


@pytest.mark.slow
def test_charts_are_drawn_anew_for_another_share_and_for_other_samples_outside():
    made = tower_of(500)
    grid = CubicalGrid(LOWER, UPPER, (32, 32))
    first = drawing.sketch(made, grid, Stopwatch()).charts[0]
    inner = made.open(np.full(2, -0.4), np.full(2, 0.4), 0, 12)
    made.snap(grid)
    box = made.boxes[inner]
    points = design(box.lower, box.upper, 40, 1)
    made.add(inner, points[:20], values(two_scales, points[:20]))
    second = drawing.sketch(made, grid, Stopwatch()).charts[0]
    assert second.failure < 0.7 * first.failure
    made.add(inner, points[20:], values(two_scales, points[20:]))
    drawing.sketch(made, grid, Stopwatch())
    seen = made.seen_by(0).finite.points.tolist()
    for leaf in made.boxes[0].leaves.leaves:
        assert all(point in seen for point in leaf.seen.points.tolist())
        assert (leaf.model.surrogate.x == leaf.seen.points).all()


@pytest.mark.slow
def test_a_stand_in_is_asked_for_kinks_in_all_of_the_box():
    def floor(x):
        return torch.relu(x[:, 0] - 0.2)

    made = tower_of(600, floor)
    surrogates.ask_for_kinks(made, 0)
    stand_ins = [leaf for leaf in made.boxes[0].leaves.leaves if not leaf.has_own]
    whole, losses = surrogates._fit(made, 0).surrogate, made.boxes[0].samples.losses
    assert stand_ins
    assert {leaf.kinked for leaf in stand_ins} == {kinked_weight(whole, losses, LOWER, UPPER)}


def test_tests_in_a_part_that_is_refuted_vouch_for_nothing():
    made = tower_of(500)
    parts = surrogates.fitted(made, 0)
    points = made.boxes[0].samples.points
    there = parts.holds(parts.parts[0], points)
    made.boxes[0].predicted.append(Predicted(points, np.zeros(len(points))))
    bands = [5.0]
    everything = evidence_for(made, [parts], bands, 0.99)
    void = dataclasses.replace(parts.parts[0].model, factor=3.0)
    first = dataclasses.replace(parts.parts[0], model=void)
    refuted = dataclasses.replace(parts, parts=(first, *parts.parts[1:]))
    rest = evidence_for(made, [refuted], bands, 0.99)
    assert everything.n_predicted == len(points)
    assert rest.n_predicted == len(points) - there.sum()
    # Where samples are given, halves are those of each part.
    made.boxes[0].predicted.clear()
    assert evidence_for(made, [parts], bands, 0.99).n_predicted == len(points)


def test_predictions_are_those_of_the_parts():
    made = tower_of(500)
    surrogates.sketched(made, 0)
    points = np.random.default_rng(1).uniform(LOWER, UPPER, (20, 2))
    losses = values(two_scales, points)
    losses[0] += 50.0
    surrogates.place(made, 0, points, losses)
    (predicted,) = made.boxes[0].predicted
    assert predicted.errors[0] > 5
    assert np.median(predicted.errors) < 2
    assert len(made.boxes[0].samples) == 520


@pytest.mark.slow
def test_from_many_samples_an_analysis_has_parts_and_the_record_says_so(tmp_path):
    points = design(LOWER, UPPER, 450, 3)
    result = analyze_samples(points, values(two_scales, points), LOWER, UPPER, 32)
    assert result.claim.endswith("2 attractors")
    assert result.surrogate.leaves > 3
    assert result.mu >= 0.9
    assert np.isfinite(result.mean_loss).all()
    corners = np.stack(np.meshgrid(*result.grid.edges, indexing="ij"), axis=-1).reshape(-1, 2)
    error = np.abs(result.mean_loss.ravel() - values(two_scales, corners))
    assert np.median(error) < 0.05
    result.save(tmp_path / "many.npz")
    again = lm.MorseAnalysis.load(tmp_path / "many.npz")
    assert again.surrogate == result.surrogate
    assert (again.labels == result.labels).all()


def test_boxes_inside_wait_until_the_outermost_has_its_share():
    assert Plan.of(512, 2, 512, for_picture=True).full_picture == Plan.of(512, 2, 512).full_picture
    assert Plan.of(2048, 2, 2048, for_picture=True).full_picture == 1228
    assert Plan.of(2048, 2, 2048).full_picture == 128
