"""Blocks against the full map, local certificates against fields pushing through the band."""

from itertools import pairwise, product

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

import lightning_morse as lm
from lightning_morse import CubicalGrid
from lightning_morse.analysis import blocks, ladder
from lightning_morse.analysis.charts import Chart
from lightning_morse.analysis.design import design
from lightning_morse.analysis.ladder import climb
from lightning_morse.bands.gradient import failure_bound, gradient_band
from lightning_morse.bands.levels import failures
from lightning_morse.conley.combinatorial_map import cells_met, outer_approximation
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.enclosure import flow_map as gradient_flow
from lightning_morse.enclosure.flow_map import FlowEnclosure, critical_cells, image_boxes
from lightning_morse.gp.calibration import Calibrated
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.grids.lattice import Lattice
from tests import landscapes as land

CONFIDENCE = 0.9


class Setting:
    """An analysis taken apart: everything that a climb starts from."""

    def __init__(self, loss, lower, upper, shape, n, kernel=MATERN_5_2, outside=None):
        x = design(lower, upper, n, 0)
        self.gp = fit(x, loss(x), lower, upper, kernel)
        self.lattice = Lattice.of(CubicalGrid(lower, upper, shape))
        self.posterior = self.gp.lattice_posterior(self.lattice.axes)
        self.enclosure = FlowEnclosure.of(self.lattice, self.posterior)
        self.fails = failures(CONFIDENCE)
        self.outside = outside
        self.bands = [
            gradient_band(self.gp, self.lattice, self.posterior, 1 - 0.9 * f) for f in self.fails
        ]
        self.candidates = critical_cells(self.lattice, self.posterior, self.bands[0])
        self.found = morse_graph(
            self.map(0), critical=self.lattice.any_in_grid_cell(self.candidates)
        )
        self.attractors = [self.found.morse_sets[a] for a in self.found.attractors]

    @property
    def chart(self):
        size = self.lattice.grid.size
        return Chart(
            surrogate=self.gp,
            lattice=self.lattice,
            posterior=self.posterior,
            band=self.bands[0],
            enclosure=self.enclosure,
            images=image_boxes(self.lattice, self.posterior, self.bands[0]),
            diverged=np.zeros(size, dtype=bool) if self.outside is None else self.outside,
            candidates=self.candidates,
        )

    def map(self, level, plain=True):
        """The whole map of a level: by the plain way, or with flights that end at rest."""
        if plain:
            images = image_boxes(self.lattice, self.posterior, self.bands[level])
        else:
            between = self.enclosure.between(self.bands[0], self.bands[-1])
            everything = np.arange(self.lattice.grid.size)
            share = between.share(self.bands[level])
            images = between.images(everything, np.full(everything.size, share))
        return outer_approximation(
            images.lower,
            images.upper,
            self.lattice.grid,
            exits=images.exits.any(axis=(1, 2)),
            exterior_cells=self.outside,
        )

    def climb(self, **changes):
        attractors = changes.pop("attractors", self.attractors)
        return climb(self.chart, attractors, CONFIDENCE, **{"counted": True, **changes})


def half_plane(grid):
    """Cells of the right third of the box."""
    x = grid.cell_centers()[:, 0]
    return x > grid.lower[0] + 0.45 * (grid.upper[0] - grid.lower[0])


SETTINGS = {
    "himmelblau": lambda: Setting(land.himmelblau, [-5, -5], [5, 5], (48, 48), 48, MATERN_7_2),
    "line": lambda: Setting(land.double_well, [-2.0], [2.0], (64,), 24),
    "merging": lambda: Setting(land.double_well, [-2.0], [2.0], (64,), 12),
    "vanishing": lambda: Setting(land.double_well, [-2, -2], [2, 1.3], (40, 32), 64),
    "diverging": lambda: Setting(
        land.double_well,
        *([-2, -2], [2, 2], (40, 40), 48),
        outside=half_plane(CubicalGrid([-2, -2], [2, 2], (40, 40))),
    ),
}


@pytest.fixture(scope="module", params=SETTINGS)
def climbed(request):
    setting = SETTINGS[request.param]()
    return setting, setting.climb()


@pytest.fixture(scope="module")
def settings():
    return {name: make() for name, make in SETTINGS.items()}


def groups(up, level):
    """Cells of each block at a level by its representative, those that have merged together."""
    row = up.ladder.blocks[level]
    return {
        g: np.unique(np.concatenate([up.blocks[level][i] for i in np.flatnonzero(row == g)]))
        for g in np.unique(row[row >= 0])
    }


class TestBlocks:
    @pytest.mark.parametrize("plain", [False, True])
    def test_are_closed_under_the_whole_map_of_their_level(self, climbed, plain, monkeypatch):
        """No image leads out of a block: not to the exterior, not to a cell of another."""
        setting, up = climbed
        if plain:  # the flights of image_boxes end later
            monkeypatch.setattr(gradient_flow, "NEARLY_AT_REST", gradient_flow.AT_REST)
            up = setting.climb()
        assert len(setting.attractors) > 0
        for level in range(len(setting.fails)):
            image = setting.map(level, plain)
            taken = np.zeros(setting.lattice.grid.size, dtype=int)
            for cells in groups(up, level).values():
                reached = np.unique(image[cells].indices)
                assert np.isin(reached, cells).all()  # the exterior is no cell
                taken[cells] += 1
            assert taken.max(initial=0) <= 1

    def test_are_the_smallest_such_sets(self, climbed):
        """What is in a block is reached from the block below."""
        setting, up = climbed
        below = [set(cells.tolist()) for cells in setting.attractors]
        for level in range(len(setting.fails)):
            image = setting.map(level, plain=False)
            for i, cells in enumerate(up.blocks[level]):
                reached, fresh = set(below[i]), below[i]
                while fresh:
                    fresh = set(image[sorted(fresh)].indices.tolist()) - reached
                    reached |= fresh
                if cells.size:
                    assert reached == set(cells.tolist())
                below[i] = reached

    def test_grow_with_the_level_and_their_number_falls(self, climbed):
        setting, up = climbed
        for i, cells in enumerate(setting.attractors):
            assert np.isin(cells, up.blocks[0][i]).all()
        for below, above in pairwise(up.blocks):
            for a, b in zip(below, above, strict=True):
                assert not b.size or np.isin(a, b).all()
        assert (np.diff(up.ladder.counts) <= 0).all()
        assert up.ladder.counts[0] == len(setting.attractors)

    def test_what_became_of_them(self, settings):
        counts = {name: s.climb().ladder.counts for name, s in settings.items()}
        assert counts["himmelblau"][[0, -1]].tolist() == [4, 3]
        assert (counts["line"] == 2).all()
        assert counts["merging"][:2].tolist() == [2, 1]
        merged = settings["merging"].climb().ladder.blocks
        assert merged[1].tolist() == [0, 0]
        assert merged[-1].tolist() == [0, 0]
        assert len(counts["vanishing"]) == len(counts["himmelblau"])
        assert counts["vanishing"][0] == 4 > counts["vanishing"][-1] > 0

    def test_what_merged_or_vanished_does_not_stand_again(self, climbed):
        _, up = climbed
        for below, above in pairwise(up.ladder.blocks):
            assert (above[below < 0] == -1).all()
            for g in np.unique(below[below >= 0]):
                assert np.unique(above[below == g]).size == 1

    def test_next_to_what_diverged_nothing_stands(self, settings):
        setting = settings["diverging"]
        up = setting.climb()
        assert len(setting.attractors) == 2
        for level in range(len(setting.fails)):
            for cells in groups(up, level).values():
                assert not setting.outside[cells].any()
        # An attractor in the midst of it cannot stand at any level.
        lost = setting.climb(attractors=[np.flatnonzero(setting.outside)[:3]])
        assert (lost.ladder.blocks[1:] == -1).all()
        assert lost.each.tolist() == [CONFIDENCE]

    def test_a_block_that_leaks_does_not_drag_its_neighbour_along(self, settings):
        """Cells that flow to the left well and out of the box, as if they were an attractor."""
        setting = settings["line"]
        left = min(setting.attractors, key=lambda cells: cells[0])
        face = np.arange(left[0] + 1)
        setting.outside = np.zeros(setting.lattice.grid.size, dtype=bool)
        setting.outside[0] = True
        up = setting.climb(attractors=[left, face])
        setting.outside = None
        assert (up.ladder.blocks[1:] == [0, -1]).all()

    def test_one_that_floods_the_grid_is_given_up(self, settings, monkeypatch):
        setting = settings["merging"]
        assert setting.climb().ladder.blocks[1].tolist() == [0, 0]
        monkeypatch.setattr(blocks, "_MOST_ROUNDS", 1)
        given_up = setting.climb()
        assert given_up.ladder.blocks[0].tolist() == [0, 1]
        assert (given_up.ladder.blocks[1:, 1] == -1).all()
        assert (given_up.each >= CONFIDENCE).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [1, 7])
    def test_do_not_depend_on_the_size_of_a_round(self, settings, monkeypatch, size):
        setting = settings["merging"]
        expected = setting.climb()
        monkeypatch.setattr(blocks, "_CELLS_PER_ROUND", size)
        monkeypatch.setattr(blocks, "_MOST_ROUNDS", 10_000)
        found = setting.climb()
        assert np.array_equal(found.ladder.blocks, expected.ladder.blocks)
        for a, b in zip(found.blocks, expected.blocks, strict=True):
            assert all(map(np.array_equal, a, b))


class TestConfidences:
    def test_are_at_least_the_one_asked_for_and_below_one(self, climbed):
        _, up = climbed
        for value in (*up.each, up.together, up.exact):
            assert CONFIDENCE <= value < 1
        assert up.together <= up.each.min() + 1e-15

    def test_are_those_of_the_last_level_at_which_they_stand_or_better(self, climbed):
        """The local bound is never worse than the global one, and not better than it can be."""
        setting, up = climbed
        levels, blocks = up.ladder.levels, up.ladder.blocks
        for i in range(blocks.shape[1]):
            alone = [(row == row[i]).sum() == 1 and row[i] == i for row in blocks]
            top = np.flatnonzero(alone)[-1]
            if top == 0:
                continue
            assert up.each[i] >= levels[top]
            fewest = failure_bound(setting.bands[top].c, setting.lattice, 2)
            assert 1 - up.each[i] > fewest
        together = [len(np.unique(row)) == row.size and row.min() >= 0 for row in blocks]
        top = np.flatnonzero(together)[-1]
        assert up.together >= levels[top]

    def test_an_attractor_that_merges_at_once_keeps_the_lowest_level(self, settings):
        up = settings["merging"].climb()
        # By itself it needs the band in some cells only, on the lowest level too.
        assert (up.each > CONFIDENCE).all()
        assert (up.each < up.ladder.levels[3]).all()
        assert up.exact == CONFIDENCE

    def test_a_simulated_base_has_no_level_of_its_own(self, settings):
        setting = settings["himmelblau"]
        with_own, without = setting.climb(), setting.climb(proved=False)
        assert np.array_equal(with_own.ladder.levels, without.ladder.levels)
        assert np.array_equal(without.blocks[0][0], setting.attractors[0])
        assert (without.ladder.blocks[0] == range(len(setting.attractors))).all()
        assert without.each == pytest.approx(with_own.each, abs=1e-7)

    def test_of_nothing(self, settings):
        up = settings["line"].climb(attractors=[])
        assert up.ladder.blocks.shape == (1, 0)
        assert up.together == up.exact == CONFIDENCE

    def test_no_level_above_a_very_high_level(self):
        assert failures(1 - 1e-9) == pytest.approx([1e-9], rel=1e-6)
        fails = failures(0.5)
        assert fails[[0, -1]] == pytest.approx([0.5, 1e-6])
        assert np.diff(np.log(fails)) == pytest.approx(np.log(fails[1] / fails[0]))


class TestExactly:
    def test_holds_as_far_as_verified(self):
        setting = Setting(land.himmelblau, [-5, -5], [5, 5], (64, 64), 128, MATERN_7_2)
        up = setting.climb()
        assert 0.99999 < up.exact < 1
        assert setting.climb(counted=False).exact == CONFIDENCE

    @pytest.mark.parametrize("hidden", range(4))
    def test_a_hidden_attractor_is_never_overlooked(self, hidden):
        setting = Setting(land.himmelblau, [-5, -5], [5, 5], (48, 48), 96, MATERN_7_2)
        known = [cells for i, cells in enumerate(setting.attractors) if i != hidden]
        assert len(known) == 3
        up = setting.climb(attractors=known)
        assert up.exact == CONFIDENCE  # the lowest level is not looked at again
        assert up.together > CONFIDENCE

    def test_two_minima_in_one_block_are_not_one(self):
        setting = Setting(land.himmelblau, [-5, -5], [5, 5], (48, 48), 96, MATERN_7_2)
        a, b, *rest = setting.attractors
        up = setting.climb(attractors=[np.union1d(a, b), *rest])
        assert up.exact == CONFIDENCE

    def test_what_may_contradict_it_counts(self, monkeypatch):
        """One saddle in a thousand, wherever there may be a critical point."""
        setting = Setting(land.himmelblau, [-5, -5], [5, 5], (48, 48), 96, MATERN_7_2)
        assert setting.climb().exact > 0.9999
        truth = ladder.expected_critical_points

        def doubtful(surrogate, centers, widths):
            found = truth(surrogate, centers, widths)
            found[:, 1] += 1e-3 / len(found)
            return found

        monkeypatch.setattr(ladder, "expected_critical_points", doubtful)
        less = setting.climb().exact
        # Saddles contradict it inside the blocks only.
        assert 1e-6 < 1 - less < 1e-3
        monkeypatch.setattr(
            ladder, "expected_critical_points", lambda *a: np.full((len(a[1]), 3), 0.1)
        )
        assert setting.climb().exact == CONFIDENCE


class TestLocalCertificates:
    def test_boundary_cells(self):
        grid = CubicalGrid([0, 0], [1, 1], (6, 7))
        rng = np.random.default_rng(0)
        mask = rng.random((6, 7)) < 0.8
        cells = np.flatnonzero(mask)
        outside = np.pad(~mask, 1, constant_values=True)
        beside = binary_dilation(outside, np.ones((3, 3)))[1:-1, 1:-1]
        assert ladder._boundary(grid, cells).tolist() == np.flatnonzero(mask & beside).tolist()

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_corners_are_counted_once(self, dim):
        rng = np.random.default_rng(dim)
        first = rng.integers(3, 9, (5, dim))
        boxes = np.stack([first, first + rng.integers(0, 4, (5, dim))], axis=2)
        points = set()
        for box in boxes:
            axes = [range(a, b + 2) for a, b in box]
            points |= set(product(*axes))
        assert ladder._count_corners(boxes) == len(points)
        assert ladder._count_corners(boxes[:0]) == 0

    @pytest.mark.parametrize("name", ["himmelblau", "merging", "vanishing"])
    @pytest.mark.parametrize("push", ["outward", "along", "wave"])
    def test_no_field_inside_the_band_leaves_what_was_swept(self, settings, name, push):
        """From corners of boundary cells, against the band: where they pass, where they end."""
        setting = settings[name]
        up, lattice, grid = setting.climb(), setting.lattice, setting.lattice.grid
        fine = CubicalGrid(grid.lower, grid.upper, lattice.cells)
        rng = np.random.default_rng(3)
        between = setting.enclosure.between(setting.bands[0], setting.bands[-1])
        for level in (0, len(setting.bands) - 1):
            band = setting.bands[level]
            for cells in up.blocks[level]:
                if not cells.size:
                    continue
                edge = ladder._boundary(grid, cells)
                images = between.images(edge, np.full(len(edge), between.share(band)))
                swept = np.zeros(lattice.cells, dtype=bool)
                for box in images.swept:
                    swept[tuple(slice(a, b + 1) for a, b in box)] = True
                low, upper = (c[edge] for c in grid.cell_bounds())
                share = rng.integers(0, 2, (4, 1, grid.dim))
                x = (low + share * (upper - low)).reshape(-1, grid.dim)
                h = np.tile(images.times, 4)[:, None] / 60
                middle = grid.cell_centers()[cells].mean(axis=0)
                side = np.sign(rng.normal(size=(len(x), grid.dim)))

                def field(p, t, band=band, middle=middle, side=side):
                    at = np.clip(p, grid.lower, grid.upper)
                    direction = {
                        "outward": np.sign(at - middle),
                        "along": side,
                        "wave": np.sin(9 * at / grid.cell_widths[0] + t),
                    }[push]
                    width = 0.999 * band.radius[np.maximum(fine.cell_of(at), 0)]
                    return -setting.gp.posterior(at).gradient + direction * width

                for k in range(60):
                    k1 = field(x, k)
                    x = x + h * field(x + 0.5 * h * k1, k + 0.5)
                    at = fine.cell_of(x)
                    assert (at >= 0).all()
                    assert swept.ravel()[at].all()
                # A point on a face belongs to the cells on both sides.
                met, counts = cells_met(x, x, grid)
                owner = np.repeat(np.arange(len(x)), counts)
                back = np.zeros(len(x), dtype=bool)
                back[owner[np.isin(met, cells)]] = True
                assert back.all()

    def test_windows_hold_the_cell_and_its_image(self, settings):
        setting = settings["himmelblau"]
        lattice = setting.lattice
        images = image_boxes(lattice, setting.posterior, setting.bands[0])
        cells = np.array(lattice.cells)
        low = (images.lower - lattice.grid.lower) / lattice.spacing
        high = (images.upper - lattice.grid.lower) / lattice.spacing
        inside = ~images.exits.any(axis=(1, 2))
        assert inside.sum() > 1000
        assert (images.swept[..., 0] <= np.maximum(low, 0) + 1e-9)[inside].all()
        assert (images.swept[..., 1] + 1 >= np.minimum(high, cells) - 1e-9)[inside].all()
        assert (images.swept[..., 0] >= 0).all()
        assert (images.swept[..., 1] < cells).all()


class TestBandsBetween:
    def test_the_ends_are_the_two_bands(self, settings):
        setting = settings["himmelblau"]
        between = setting.enclosure.between(setting.bands[0], setting.bands[-1])
        assert between.share(setting.bands[0]) == 0
        assert between.share(setting.bands[-1]) == 1
        shares = [between.share(b) for b in setting.bands]
        assert (np.diff(shares) > 0).all()

    def test_a_band_in_between_is_covered_but_not_by_much(self, settings):
        setting = settings["himmelblau"]
        between = setting.enclosure.between(setting.bands[0], setting.bands[-1])
        for band in setting.bands:
            mixed = between._inclusion.forcing + between.share(band) * between._inclusion.widening
            exact = setting.enclosure._forcing(band)
            assert (mixed >= exact * (1 - 1e-12)).all()
            assert (mixed <= exact * 1.02).all()

    def test_each_cell_at_its_own_band(self, settings):
        setting = settings["himmelblau"]
        between = setting.enclosure.between(setting.bands[0], setting.bands[-1])
        cells = np.arange(0, setting.lattice.grid.size, 7)
        shares = np.linspace(0, 1, len(cells))
        mixed = between.images(cells, shares)
        for k in (0, len(cells) // 2, len(cells) - 1):
            one = between.images(cells[[k]], shares[[k]])
            assert np.array_equal(one.lower[0], mixed.lower[k])
            assert np.array_equal(one.swept[0], mixed.swept[k])

    def test_refuses_bands_out_of_order(self, settings):
        setting = settings["line"]
        narrow, wide = setting.bands[0], setting.bands[-1]
        with pytest.raises(ValueError, match="wide must be at least as wide as narrow"):
            setting.enclosure.between(wide, narrow)
        between = setting.enclosure.between(narrow, narrow)
        assert between.share(narrow) == 0
        with pytest.raises(ValueError, match="nowhere wider than the wide one"):
            between.share(wide)

    def test_some_cells_are_those_of_all(self, settings):
        setting = settings["himmelblau"]
        whole = setting.enclosure.images(setting.bands[3])
        cells = np.array([5, 700, 1200, 5])
        some = setting.enclosure.images(setting.bands[3], cells)
        assert np.array_equal(some.upper, whole.upper[cells])
        assert setting.enclosure.images(setting.bands[0], cells[:0]).lower.shape == (0, 2)


class TestAnalysis:
    def test_confidences_of_himmelblau(self, tmp_path):
        result = lm.analyze(land.himmelblau, [-5, -5], [5, 5], n_samples=128, resolution=64)
        assert result.claim == "exactly 4 attractors"
        assert result.ladder.levels[-1] == pytest.approx(1 - 1e-6)
        assert result.mu_model == pytest.approx(1 - 1e-6, abs=2e-7)
        assert result.mu == result.mu_model * result.evidence.adequacy
        mus = [m.mu for m in result.morse_sets]
        assert all(result.mu < mu < 1 for mu in mus[:4])
        assert mus[4:] == [None] * (result.n_morse_sets - 4)
        assert result.ladder.blocks.shape == (result.ladder.levels.size, 4)
        assert "| 0.98" in result.table()
        result.save(tmp_path / "a.npz")
        back = lm.MorseAnalysis.load(tmp_path / "a.npz")
        assert np.array_equal(back.ladder.levels, result.ladder.levels)
        assert np.array_equal(back.ladder.blocks, result.ladder.blocks)
        assert [m.mu for m in back.morse_sets] == mus

    @pytest.mark.slow
    @pytest.mark.parametrize("band", ["proved", pytest.param("simulated", marks=pytest.mark.slow)])
    def test_never_below_what_was_asked(self, band):
        for n, confidence in ((32, 0.5), (40, 0.99), (40, 1 - 1e-7)):
            result = lm.analyze(
                *(land.double_well, [-2, -2], [2, 2]),
                **{"n_samples": n, "resolution": 32, "confidence": confidence, "band": band},
            )
            assert result.n_attractors
            assert confidence <= result.mu_model < 1
            assert result.ladder.levels[0] == pytest.approx(confidence, rel=1e-12)
            own = [result.morse_sets[a].mu / result.evidence.adequacy for a in result.attractors]
            assert min(own) >= confidence * (1 - 1e-12)

    def test_at_least_n_is_more_certain_than_exactly_n(self):
        """Merge two attractors of the count: what stands is the number, not its completeness."""
        result = lm.analyze(land.himmelblau, [-5, -5], [5, 5], n_samples=34, resolution=48)
        assert result.claim.startswith("at least ")
        assert result.n_attractors >= 3
        assert result.mu_model > result.confidence
        assert 1 - result.mu >= 1 - min(m.mu for m in result.morse_sets if m.is_attractor)

    def test_worth_nothing_where_the_samples_refute_the_surrogate(self, monkeypatch):
        monkeypatch.setattr(Calibrated, "trusted", property(lambda self: False))
        result = lm.analyze(land.double_well, [-2], [2], n_samples=32)
        assert result.claim == "no certain attractor"
        assert result.mu == 0
        assert [m.mu for m in result.morse_sets] == [None] * result.n_morse_sets
        assert result.ladder.blocks.shape == (1, 0)

    def test_without_attractor(self):
        result = lm.analyze(land.plane, [-1, -1], [1, 1], n_samples=32, resolution=16)
        assert 0.95 <= result.mu_model < 0.96
        assert result.ladder.blocks.shape == (1, 0)

    def test_files_of_another_format_are_refused(self, tmp_path, monkeypatch):
        result = lm.analyze(land.bowl, [-1], [1], n_samples=32, resolution=16)
        monkeypatch.setattr("lightning_morse.files.archive.FORMAT_VERSION", 1)
        result.save(tmp_path / "old.npz")
        monkeypatch.undo()
        with pytest.raises(ValueError, match="its format is 1, this version reads 2"):
            lm.MorseAnalysis.load(tmp_path / "old.npz")
