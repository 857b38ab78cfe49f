"""Small networks and losses of which barriers are known."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

MINIMA = torch.tensor(
    [[3.0, 2.0], [-2.805118, 3.131312], [-3.779310, -3.283186]], dtype=torch.float64
)
NO_DATA = [torch.zeros(1)]


class TwoWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def himmelblau(net, batch):
    x, y = net.w
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def cross_entropy(net, batch):
    return F.cross_entropy(net(batch[0]), batch[1])


def blobs(seed=0, n=96):
    """Four clusters in the plane, labelled in two classes by opposite corners."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 4, (n,), generator=generator)
    x = torch.stack([corner % 2, corner // 2], 1) * 2.0 - 1
    x += 0.3 * torch.randn(n, 2, generator=generator)
    return x, ((corner == 0) | (corner == 3)).long()


def batches(seed=0):
    x, y = blobs(seed)
    return list(zip(x.split(48), y.split(48), strict=True))


def mlp(seed, width=12, normalised=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(width)] if normalised else []
        return nn.Sequential(nn.Linear(2, width), *middle, nn.Tanh(), nn.Linear(width, 2))


def trained(net, steps=150, every=None, seed=0, lr=0.3):
    """State dicts along a run of SGD: every so many steps, or the last alone."""
    x, y = blobs()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    found = []
    net.train()
    for step in range(1, steps + 1):
        rows = torch.randint(0, len(x), (16,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(net, (x[rows], y[rows])).backward()
        optimizer.step()
        if step % (every or steps) == 0:
            found.append({k: v.clone() for k, v in net.state_dict().items()})
    return found


def permuted(state, order):
    """The same function, with the hidden units in another order."""
    first, second = (k.removesuffix(".weight") for k in state if k.endswith(".weight"))
    new = dict(state)
    new[f"{first}.weight"] = state[f"{first}.weight"][order]
    new[f"{first}.bias"] = state[f"{first}.bias"][order]
    new[f"{second}.weight"] = state[f"{second}.weight"][:, order]
    return new


def all_pairs(k):
    return list(itertools.combinations(range(k), 2))
