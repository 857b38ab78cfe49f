"""The trainings: one function each, which takes callbacks and trains to the end.

Each imports its library when it is called, so that a missing one leaves the others be.
"""

from __future__ import annotations

from typing import Any

import lightning as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from twice import SEED, Case

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


# ---------------------------------------------------------------------------- pytorch-forecasting


def _forecasting(model_of: Any, callbacks: list[pl.Callback], **columns: Any) -> None:
    import pandas as pd
    from pytorch_forecasting import TimeSeriesDataSet

    draw = np.random.default_rng(0)
    time = np.tile(np.arange(60), 4)
    series = np.repeat(np.arange(4), 60)
    value = 2 + np.sin(time / 4 + series) + 0.1 * draw.standard_normal(len(time))
    frame = pd.DataFrame({"time": time, "series": series.astype(str), "value": value})
    data = TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=12,
        min_encoder_length=12,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
        **columns,
    )
    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=8, gradient_clip_val=0.1, callbacks=callbacks, **QUIET
    )
    loader = data.to_dataloader(train=True, batch_size=16, num_workers=0)
    held_out = data.to_dataloader(train=False, batch_size=64, num_workers=0)
    trainer.fit(model_of(data), train_dataloaders=loader, val_dataloaders=held_out)


def temporal_fusion_transformer(callbacks: list[pl.Callback]) -> None:
    from pytorch_forecasting import QuantileLoss, TemporalFusionTransformer

    def model_of(data: Any) -> pl.LightningModule:
        return TemporalFusionTransformer.from_dataset(
            data,
            learning_rate=0.03,
            hidden_size=8,
            attention_head_size=1,
            hidden_continuous_size=4,
            loss=QuantileLoss(),
        )

    columns = {"static_categoricals": ["series"], "time_varying_known_reals": ["time"]}
    _forecasting(model_of, callbacks, add_relative_time_idx=True, **columns)


def n_beats(callbacks: list[pl.Callback]) -> None:
    from pytorch_forecasting import NBeats

    def model_of(data: Any) -> pl.LightningModule:
        return NBeats.from_dataset(data, learning_rate=3e-3, widths=[16, 32])

    _forecasting(model_of, callbacks)


# --------------------------------------------------------------------------------------- chemprop


def message_passing(callbacks: list[pl.Callback]) -> None:
    from chemprop import data, models
    from chemprop import nn as parts

    smiles = (
        *("C", "CC", "CCO", "CCN", "c1ccccc1", "Cc1ccccc1", "CC(=O)O", "CC(=O)N", "C1CCCCC1"),
        *("OCCO", "CC(C)C", "c1ccncc1", "CCCl", "CCOCC", "NCC(=O)O", "OC1CCCC1"),
    )
    points = [data.MoleculeDatapoint.from_smi(s, [float(len(s))]) for s in smiles]
    molecules = data.MoleculeDataset(points)
    scaler = molecules.normalize_targets()
    loader = data.build_dataloader(molecules, batch_size=4, num_workers=0)
    model = models.MPNN(
        parts.BondMessagePassing(d_h=16),
        parts.MeanAggregation(),
        parts.RegressionFFN(
            input_dim=16,
            hidden_dim=16,
            output_transform=parts.UnscaleTransform.from_standard_scaler(scaler),
        ),
        batch_norm=True,
    )
    pl.Trainer(max_epochs=12, callbacks=callbacks, **QUIET).fit(model, loader)


# ------------------------------------------------------------------------------------- scvi-tools


def _cells() -> Any:
    import anndata
    import scvi

    scvi.settings.seed = SEED  # else each model splits its data in another way

    draw = np.random.default_rng(0)
    kind = draw.integers(2, size=200)
    rate = np.where(kind[:, None] == 0, 2.0, np.linspace(0.5, 6, 40))
    cells = anndata.AnnData(draw.poisson(rate).astype(np.float32))
    cells.obsm["protein"] = draw.poisson(5 + 10 * kind[:, None], (200, 6)).astype(np.float32)
    cells.obs["batch"] = np.where(np.arange(200) % 2, "a", "b")
    return cells


def scvi(callbacks: list[pl.Callback]) -> None:
    from scvi.model import SCVI

    cells = _cells()
    SCVI.setup_anndata(cells, batch_key="batch")
    model = SCVI(cells, n_hidden=16, n_latent=4)
    model.train(
        max_epochs=12,
        batch_size=32,
        accelerator="cpu",
        early_stopping=True,
        enable_progress_bar=False,
        callbacks=callbacks,
    )


def totalvi(callbacks: list[pl.Callback]) -> None:
    from scvi.model import TOTALVI

    cells = _cells()
    TOTALVI.setup_anndata(cells, protein_expression_obsm_key="protein", batch_key="batch")
    model = TOTALVI(cells, latent_distribution="normal", n_latent=4)
    model.train(
        max_epochs=6,
        batch_size=32,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=callbacks,
    )


# ------------------------------------------------------------------------------------------ darts


def tide(callbacks: list[pl.Callback]) -> None:
    from darts import TimeSeries
    from darts.models import TiDEModel

    draw = np.random.default_rng(0)
    values = np.sin(np.arange(200) / 5) + 0.1 * draw.standard_normal(200)
    model = TiDEModel(
        input_chunk_length=12,
        output_chunk_length=4,
        hidden_size=16,
        n_epochs=4,
        batch_size=32,
        random_state=0,
        pl_trainer_kwargs={**QUIET, "callbacks": callbacks},
    )
    model.fit(TimeSeries.from_values(values.astype(np.float32)), verbose=False)


# ------------------------------------------------------------------------------------------- PINA


def physics_informed(callbacks: list[pl.Callback]) -> None:
    from pina import Trainer
    from pina.model import FeedForward
    from pina.problem.zoo import Poisson2DSquareProblem
    from pina.solver import PhysicsInformedSingleModelSolver

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(n=40, mode="random")
    network = FeedForward(input_dimensions=2, output_dimensions=1, inner_size=16, n_layers=2)
    solver = PhysicsInformedSingleModelSolver(problem, network)
    Trainer(solver, max_epochs=40, callbacks=callbacks, **QUIET).train()


# -------------------------------------------------------------------------------- torch-geometric


def graph_network(callbacks: list[pl.Callback]) -> None:
    from torch_geometric.data import Data
    from torch_geometric.data.lightning import LightningDataset
    from torch_geometric.nn import GCNConv, global_mean_pool

    class GraphNetwork(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GCNConv(3, 16), GCNConv(16, 16)
            self.norm, self.out = nn.BatchNorm1d(16), nn.Linear(16, 2)

        def training_step(self, data: Any, index: int) -> torch.Tensor:
            x = self.norm(self.first(data.x, data.edge_index)).relu()
            x = F.dropout(self.second(x, data.edge_index).relu(), 0.2, self.training)
            logits = self.out(global_mean_pool(x, data.batch))
            loss = F.cross_entropy(logits, data.y)
            self.log("loss", loss, batch_size=data.num_graphs)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    draw = torch.Generator().manual_seed(0)
    graphs = []
    for k in range(64):
        nodes = 4 + k % 5
        ends = torch.randint(nodes, (2, 3 * nodes), generator=draw)
        x = torch.randn(nodes, 3, generator=draw)
        graphs.append(Data(x=x, edge_index=ends, y=(x.mean(0)[:1] > 0).long()))
    loaders = LightningDataset(graphs, batch_size=8, pin_memory=False)
    trainer = pl.Trainer(max_epochs=4, callbacks=callbacks, **QUIET)
    trainer.fit(GraphNetwork(), datamodule=loaders)


# ------------------------------------------------------------------------------- Lightning itself


class Adversaries(pl.LightningModule):
    """A generator and a discriminator, optimised by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def of_generator(self, batch: Any) -> torch.Tensor:
        return F.softplus(-self.discriminator(self.generator(torch.randn_like(batch[0])))).mean()

    def of_discriminator(self, batch: Any) -> torch.Tensor:
        fake = self.generator(torch.randn_like(batch[0])).detach()
        real = F.softplus(-self.discriminator(batch[0])).mean()
        return real + F.softplus(self.discriminator(fake)).mean()

    def training_step(self, batch: Any, index: int) -> None:
        losses = (self.of_generator, self.of_discriminator)
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss(batch))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = (self.generator, self.discriminator)
        return [torch.optim.Adam(part.parameters(), 2e-3, betas=(0.5, 0.9)) for part in parts]


def loss_of_generator(module: Any, batch: Any) -> torch.Tensor:
    return module.of_generator(batch)


def adversaries(callbacks: list[pl.Callback]) -> None:
    data = TensorDataset(torch.randn(320, 2) * torch.tensor([1.0, 0.2]) + 1)
    trainer = pl.Trainer(max_epochs=4, callbacks=callbacks, **QUIET)
    trainer.fit(Adversaries(), DataLoader(data, 32, shuffle=True))


class Adapted(nn.Module):
    """A frozen layer in eight bits, and beside it a trained product of two thin matrices."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) / inputs**0.5
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.frozen = nn.Parameter((weight / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.frozen * self.scale) + F.linear(F.linear(x, self.down), self.up)


class Adapters(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Adapted(8, 32), nn.Tanh(), Adapted(32, 2))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-2)


def adapters(callbacks: list[pl.Callback]) -> None:
    x = torch.randn(320, 8)
    data = TensorDataset(x, (x[:, :2].prod(1) > 0).long())
    trainer = pl.Trainer(max_epochs=4, callbacks=callbacks, **QUIET)
    trainer.fit(Adapters(), DataLoader(data, 32, shuffle=True))


EVERY_EPOCH = {"every_n_epochs": 1}
CASES = {
    "tft": Case("pytorch-forecasting", "TFT", temporal_fusion_transformer, EVERY_EPOCH),
    "nbeats": Case("pytorch-forecasting", "NBEATS", n_beats, EVERY_EPOCH),
    "mpnn": Case("chemprop", "MPNN", message_passing, {"every_n_epochs": 3}),
    "scvi": Case("scvi-tools", "SCVI", scvi, {"every_n_epochs": 3}),
    "totalvi": Case("scvi-tools", "TOTALVI", totalvi, {"every_n_epochs": 2}),
    "tide": Case("darts", "TiDE", tide, EVERY_EPOCH),
    "pinn": Case("pina-mathlab", "PINN", physics_informed, {"every_n_epochs": 10}),
    "gnn": Case("torch-geometric", "GCN", graph_network, EVERY_EPOCH),
    "gan": Case(
        *("lightning", "GAN, two optimizers", adversaries),
        {**EVERY_EPOCH, "loss_fn": loss_of_generator},
    ),
    "lora": Case("lightning", "LoRA, int8 weights", adapters, EVERY_EPOCH),
}
