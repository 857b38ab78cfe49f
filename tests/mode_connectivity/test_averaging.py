"""Means of connected weights: who is in, what is written, and that Lightning reads it."""

import copy
import os
import re

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import lightning_morse as lm
from lightning_morse.cli import main
from lightning_morse.mode_connectivity.averaging import MEMBERS_KEY, average
from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from tests.mode_connectivity.networks import (
    TwoWeights,
    batches,
    blobs,
    cross_entropy,
    mlp,
    trained,
)


class Classifier(pl.LightningModule):
    def __init__(self, width=12, seed=0):
        super().__init__()
        self.save_hyperparameters()
        self.net = mlp(seed, width, normalised=True)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net, batch)

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*blobs()), batch_size=16)


def trainer(folder, epochs=0):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints of one run, and one of another."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = []
    for seed, epochs in ((0, (20, 22)), (1, (20,))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = Classifier(seed=seed)
            for n in epochs:
                runner = trainer(folder, n)
                runner.fit(module, loader())
                paths.append(folder / f"{'ab'[seed]}{n}.ckpt")
                runner.save_checkpoint(paths[-1])
    return paths


def make():
    return Classifier()


def data():
    return batches()


HERE = "tests.mode_connectivity.test_averaging"
GIVEN = ["--module", f"{HERE}:make", "--data", f"{HERE}:data"]


def test_a_foreign_checkpoint_is_left_out(checkpoints, tmp_path, capsys):
    mean = tmp_path / "mean.ckpt"
    assert main(["average", *map(str, checkpoints), *GIVEN, "-o", str(mean)]) == 0
    said = capsys.readouterr().out
    assert f"connected: {checkpoints[0]}, {checkpoints[1]}" in said
    assert f"left out: {checkpoints[2]}: not connected with {checkpoints[0].parent}" in said
    assert f"{mean}: mean of 2 checkpoints" in said
    file = torch.load(mean, weights_only=True)
    one, other = (torch.load(p, weights_only=True) for p in checkpoints[:2])
    assert file[MEMBERS_KEY] == list(map(str, checkpoints[:2]))
    assert "optimizer_states" not in file
    assert file["state_dict"].keys() == one["state_dict"].keys()
    assert torch.allclose(
        file["state_dict"]["net.0.weight"],
        (one["state_dict"]["net.0.weight"] + other["state_dict"]["net.0.weight"]) / 2,
    )


def test_lightning_reads_the_mean_as_it_reads_the_others(checkpoints, tmp_path, capsys):
    mean = tmp_path / "mean.ckpt"
    assert main(["average", *map(str, checkpoints[:2]), *GIVEN, "-o", str(mean)]) == 0
    module = Classifier.load_from_checkpoint(mean)
    assert module.hparams.width == 12
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (said,) = [float(row[1]) for row in rows if row[:1] == ["mean"]]
    module.eval()
    loss = sum(cross_entropy(module.net, batch).item() for batch in batches()) / 2
    assert loss == pytest.approx(said, rel=1e-3)
    trainer(tmp_path).validate(Classifier(), loader(), ckpt_path=mean, verbose=False)


def test_statistics_of_the_mean_are_those_of_update_bn(checkpoints):
    found = average(make(), data(), checkpoints[:2])
    module = Classifier()
    module.load_state_dict(found.checkpoint["state_dict"])
    expected = copy.deepcopy(module)
    torch.optim.swa_utils.update_bn([x for x, _ in batches()], expected.net)
    for name, value in module.state_dict().items():
        assert torch.allclose(value.double(), expected.state_dict()[name].double(), rtol=1e-5), name
    assert found.gains.keys() == {0, 1}
    assert found.loss == pytest.approx(found.record.losses[0] - found.gains[0])


def test_nothing_is_averaged_where_nothing_is_connected(checkpoints, tmp_path, capsys):
    mean = tmp_path / "mean.ckpt"
    given = [str(checkpoints[0]), str(checkpoints[2])]
    assert main(["average", *given, *GIVEN, "-o", str(mean)]) == 1
    said = capsys.readouterr().err
    assert "no two sets are certainly connected, so there is nothing to average" in said
    assert f"{given[0]}: not connected with {given[1]}: a barrier of at least" in said
    assert not mean.exists()


def test_state_dicts_and_flat_tensors_keep_their_form():
    net = mlp(0)
    states = trained(net, 300, 150, lr=0.05)
    found = average(net, batches(), states, loss_fn=cross_entropy, tolerance=0.02)
    assert found.checkpoint.keys() == states[0].keys()
    net.load_state_dict(found.checkpoint)
    flats = [torch.nn.utils.parameters_to_vector(net.parameters()).detach() + d for d in (0, 1e-3)]
    again = average(net, batches(), flats, loss_fn=cross_entropy, tolerance=0.02)
    assert torch.allclose(again.checkpoint, (flats[0] + flats[1]) / 2)
    loss = LossAtWeights(net, batches(), cross_entropy)
    assert again.loss == pytest.approx(loss(again.checkpoint))


def test_tied_weights_stand_under_each_name():
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.one, self.two = mlp(seed), nn.Linear(2, 12)
            self.two.weight = self.one[0].weight

        def forward(self, x):
            return self.one(x) + 0 * self.two(x).sum()

    one = Tied(0)
    shifted = {k: v + 1e-3 for k, v in one.state_dict().items()}
    found = average(
        one, batches(), [one.state_dict(), shifted], loss_fn=cross_entropy, tolerance=0.1
    )
    mean = found.checkpoint
    assert torch.equal(mean["two.weight"], mean["one.0.weight"])
    assert torch.allclose(mean["two.weight"], one.two.weight + 5e-4)


def test_half_precision_stays():
    net = mlp(0)
    (state,) = trained(net)
    half = [{k: (v + d).bfloat16() for k, v in state.items()} for d in (0, 1e-2)]
    found = average(net, batches(), half, loss_fn=cross_entropy, tolerance=0.1)
    assert {v.dtype for v in found.checkpoint.values()} == {torch.bfloat16}


def test_a_group_left_over_says_so():
    """Two wells with two sets each: the lower one is averaged."""

    def loss(net, batch):
        x, y = net.w
        return (x**2 - 1) ** 2 + 0.1 * x + y**2

    near = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    left, right = (torch.tensor([s, 0.0], dtype=torch.float64) for s in (-1.0, 1.0))
    sets = [right, right + near, left, left + near]
    found = average(TwoWeights(), [torch.zeros(1)], sets, loss_fn=loss)
    assert found.members == (2, 3)
    assert set(found.left_out) == {0, 1}
    assert all("not connected with" in why for why in found.left_out.values())


def test_connectivity_prints_the_pairs(checkpoints, tmp_path, capsys):
    figure = tmp_path / "found.png"
    given = [*map(str, checkpoints), *GIVEN]
    assert main(["connectivity", *given, "-o", str(figure)]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"  not connected  ", said)) == 2
    assert len(re.findall(r"\d  connected  ", said)) == 1
    assert "note: running statistics of 1 layer were recomputed" in said
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["connectivity", *given, "-o", str(tmp_path / "found.npz")]) == 0
    assert lm.Connectivity.load(tmp_path / "found.npz").groups == ((0, 1), (2,))


def test_a_figure_that_cannot_be_written_leaves_the_old_one(checkpoints, tmp_path, monkeypatch):
    def half(figure, file, **options):
        file.write(b"half a figure")
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    (tmp_path / "found.png").write_bytes(b"old")
    given = [*map(str, checkpoints), *GIVEN, "-o", str(tmp_path / "found.png")]
    assert main(["connectivity", *given]) == 1
    assert (tmp_path / "found.png").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--module", "nothing_here:make"], "--module nothing_here:make: No module named"),
        (["--data", f"{HERE}:missing"], f"--data {HERE}:missing: module"),
        (["--module", f"{HERE}:data"], "must return a network, got <class 'list'>"),
        (["--loss", f"{HERE}:missing"], f"--loss {HERE}:missing: module"),
        (["-o", "no/such/folder/x.ckpt"], "there is no folder no/such/folder"),
    ],
)
@pytest.mark.parametrize("command", ["average", "connectivity"])
def test_wrong_arguments(command, changed, said, tmp_path, capsys):
    given = [command, "a.ckpt", "b.ckpt", *GIVEN, "-o", str(tmp_path / "x.ckpt"), *changed]
    assert main(given) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["average", "connectivity"])
def test_a_pipe_is_not_replaced(command, tmp_path, capsys):
    os.mkfifo(tmp_path / "x.ckpt")
    given = [command, "a.ckpt", "b.ckpt", "--module", "no:such", *GIVEN[2:]]
    assert main([*given, "-o", str(tmp_path / "x.ckpt")]) == 1
    assert "it is a named pipe; --output must be a file" in capsys.readouterr().err
    assert (tmp_path / "x.ckpt").is_fifo()


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    given = ["average", str(tmp_path / "a.ckpt"), "b.ckpt", *GIVEN, "-o", str(tmp_path / "x.ckpt")]
    assert main(given) == 1
    assert "must be a file that torch.load(..., weights_only=True) reads" in capsys.readouterr().err
