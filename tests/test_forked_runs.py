"""The benchmark of forked runs: its training, its truth, and the rules it holds against it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmark_files import load

networks = load("forked_networks")
runs = load("forked_runs")
Optimizer, Copies = networks.Optimizer, networks.Copies
OPTIMIZERS = [Optimizer("sgd", 0.1), Optimizer("sgd", 0.05, 0.9), Optimizer("adamw", 3e-3)]


def trained(net, by, data, batches, states=()):
    """Plain training with torch; the state of copies at some steps."""
    optimizer, kept = by.of_torch(net.parameters()), {}
    for step, chosen in enumerate(batches):
        rate = by.rate * networks.share_of_rate(step, len(batches))
        optimizer.param_groups[0]["lr"] = rate
        if step in states:
            kept[step] = Copies.of(net, optimizer, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data[0][chosen]), data[1][chosen]).backward()
        optimizer.step()
    return kept


@pytest.mark.parametrize("by", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_forks_trained_together_are_those_trained_one_by_one(name, by):
    make, seed, steps = networks.NETWORKS[name], 3, 12
    # In double precision: AdamW makes steps of gradients that are rounding, as before a norm.
    images, labels = networks.digits(seed)
    data = images.double(), labels
    main = networks.initialised(make, seed).double()
    forks = trained(main, by, data, networks.order(seed, steps), (0, 5))
    found = networks.Forks(main, by, data, seed, steps).ends(forks)
    assert list(found) == [0, 5]
    for fork, pair in found.items():
        for copy, weights in enumerate(pair):
            alone = networks.initialised(make, seed).double()
            own = networks.order(seed, steps - fork, fork, copy)
            batches = torch.cat([networks.order(seed, steps)[:fork], own])
            trained(alone, by, data, batches)
            for key, w in alone.named_parameters():
                torch.testing.assert_close(weights[key], w.detach(), rtol=1e-6, atol=1e-8)


def test_the_global_generator_has_no_part():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = networks.initialised(networks.NETWORKS["resnet"], 1)
    orders = networks.order(1, 100, 20, 0)
    networks.digits(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    again = networks.initialised(networks.NETWORKS["resnet"], 1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(networks.order(1, 100, 20, 0), orders)


def test_orders_are_epochs_and_differ():
    steps = networks.STEPS_PER_EPOCH
    found = [networks.order(0, steps, *of) for of in ((), (0, 0), (0, 1), (10, 0))]
    for one in found:
        assert sorted(one.flatten().tolist()) == list(range(networks.N_TRAIN))
    assert len({tuple(one.flatten().tolist()) for one in found}) == 4


class Double(nn.Module):
    """The loss has minima at -1 and 1 for labels 0 of two classes, a barrier at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        margin = (self.w.square() - 1).square().expand(len(x), 1)
        return torch.cat([-margin, torch.zeros(len(x), 1)], dim=1)


def test_the_barrier_is_the_excess_over_the_line_between_the_ends():
    data = torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)
    ends = [{"w": torch.tensor([v])} for v in (-1.0, 1.0)]
    found = networks.barrier_between(Double(), data, *ends)
    assert found == pytest.approx(math.log(1 + math.e) - math.log(2), rel=1e-5)
    assert networks.barrier_between(Double(), data, ends[0], ends[0]) == 0
    # A slope is no barrier.
    other = {"w": torch.tensor([1.5])}
    assert networks.barrier_between(Double(), data, ends[1], other) == 0


def test_the_top_eigenvalue_is_that_of_the_hessian():
    data = tuple(part[:64] for part in networks.digits(0))
    net = nn.Sequential(nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 10))
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    weights = {k: p.detach().clone() for k, p in net.named_parameters()}
    flat = torch.cat([w.flatten() for w in weights.values()])
    sizes = [w.numel() for w in weights.values()]

    def loss(v):
        parts = zip(weights.items(), v.split(sizes), strict=True)
        return networks.loss_of(net)({k: p.view_as(w) for (k, w), p in parts}, *data)

    exact = torch.linalg.eigvalsh(torch.func.hessian(loss)(flat))[-1]
    assert runs.top_eigenvalue(net, weights, data) == pytest.approx(float(exact), rel=0.05)


# ---------------------------------------------------------------------- truth and rules


def row(setting, seed, barriers, values=(), settled=-1.0, identities=()):
    forks = list(range(0, 10 * len(barriers), 10))
    course = [
        {"step": 10 * (k + 1), "identity": i, "failed": 0.0} for k, i in enumerate(identities)
    ]
    seen = [dict.fromkeys(runs.QUANTITIES, v) for v in values or [0.0] * len(forks)]
    seen = [{**one, "step": fork} for one, fork in zip(seen, forks, strict=True)]
    given = {"setting": setting, "seed": seed, "steps": 100, "forks": forks, "seen": seen}
    return {**given, "barriers": barriers, "settled": settled, "course": course, "seconds": [1, 2]}


@pytest.mark.parametrize(
    ("barriers", "truth"),
    [([0.5, 0.1, 0, 0], 20), ([0, 0, 0, 0], 0), ([0, 0.5, 0, 0.02], 20), ([0, 0, 0, 1], 100)],
)
def test_the_truth_is_where_the_barrier_vanishes_for_good(barriers, truth):
    assert runs.truth_of(row("a", 0, barriers), 0.02) == truth


@pytest.mark.parametrize(
    ("identities", "said"),
    [([0, 0, 0], 10), ([0, 1, 1], 20), ([-1, 1, -1, 1, -2], 20), ([-1, -1], 100), ([1, 0, 1], 30)],
)
def test_undecided_analyses_are_passed_over(identities, said):
    assert runs.said_by_identity(row("a", 0, [0.0], identities=identities)) == said


def test_settled_that_names_no_step_is_the_end():
    assert runs.said_by_settled(row("a", 0, [0.0])) == 100
    assert runs.said_by_settled(row("a", 0, [0.0], settled=30.0)) == 30


def of_loss():
    """Runs in which the loss falls below 1 just where the barrier vanishes."""
    rng, rows = np.random.default_rng(0), []
    for setting in "abc":
        for seed in range(4):
            k = int(rng.integers(1, 8))
            barriers = [1.0] * k + [0.0] * (8 - k)
            losses = [*rng.uniform(1.2, 2, k).tolist(), *rng.uniform(0, 0.8, 8 - k).tolist()]
            rows.append(row(setting, seed, barriers, losses, settled=10.0 * k, identities=[0]))
    return rows


def test_a_rule_is_learnt_with_its_side():
    rows = of_loss()
    rule = runs.learnt_rule("loss", rows, 0.02)
    assert [rule(one) for one in rows] == [runs.truth_of(one, 0.02) for one in rows]
    clock = runs.learnt_rule("step", rows, 0.02)
    assert len({clock(one) for one in rows}) == 1


def test_no_setting_is_judged_by_a_rule_that_has_seen_it(monkeypatch):
    seen = []

    def learnt(name, rows, tolerance):
        seen.append({one["setting"] for one in rows})
        return lambda one: 0

    monkeypatch.setattr(runs, "learnt_rule", learnt)
    monkeypatch.setattr(runs, "_LEARNT", {})
    runs.said_by("loss", of_loss(), 0.02)
    assert sorted(map(sorted, seen)) == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_correlations_are_those_of_ranks():
    assert runs.rank_correlation([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert math.isnan(runs.rank_correlation([1, 1, 1], [1, 2, 3]))
    rows = [row("a", s, [0.6, 0.4 + s, 0.0], [3.0, 2.0 + s, 1.0]) for s in range(3)]
    assert runs.over_forks("loss", rows) == pytest.approx(1, abs=0.2)
    assert runs.over_runs("loss", rows) == pytest.approx(1)  # they vary at the second fork only
    assert math.isnan(runs.over_runs("step", rows))


def test_the_table_says_what_was_right(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_LEARNT", {})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in of_loss()))
    assert len(runs.main(["--table", str(path)])) == 12
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    exact = "1.00 (1.00 to 1.00) | 0.00 | 0.00 | 0 | 0 |"
    assert cells["(a) settled, answered in 12"].endswith(exact)
    assert not cells["(a) undecided passed over, in 12"].endswith(exact)


@pytest.mark.slow
def test_a_run_in_small(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "FORKS", (0, 10))
    monkeypatch.setattr(runs, "LOOKS", ())
    path = tmp_path / "rows.jsonl"
    asked = ["--settings", "mlp_sgd", "--seeds", "0", "--steps", "20", "--out", str(path)]
    (found,) = runs.main(asked)
    assert found["forks"] == [0, 10]
    assert [one["step"] for one in found["course"]] == [10, 20]
    assert [one["step"] for one in found["seen"]] == [0, 10]
    assert found["seen"][0]["distance"] == 0 < found["seen"][1]["distance"]
    assert all(b >= 0 for b in found["barriers"])
    # Lightning has trained it as forks are trained.
    net, data = networks.initialised(networks.NETWORKS["mlp"], 0), networks.digits(0)
    trained(net, runs.SETTINGS["mlp_sgd"][1], data, networks.order(0, 20))
    probe = networks.order(0, 20)[:4].flatten()
    loss = nn.functional.cross_entropy(net(data[0][probe]), data[1][probe])
    assert found["final_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    size = path.stat().st_size
    runs.main(asked)  # what is there is not made again
    assert path.stat().st_size == size
    assert "mlp_sgd" in capsys.readouterr().out
