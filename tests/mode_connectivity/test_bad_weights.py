"""Sets of weights that cannot be compared: what is said of them."""

import itertools

import pytest
import torch
from torch import nn

import lightning_morse as lm
from tests.mode_connectivity.networks import (
    MINIMA,
    NO_DATA,
    TwoWeights,
    batches,
    cross_entropy,
    himmelblau,
    mlp,
)


def compare(net, weights, **options):
    return lm.connectivity(net, batches(), weights, loss_fn=cross_entropy, **options)


def states(n=2, **options):
    return [mlp(seed, **options).state_dict() for seed in range(n)]


@pytest.mark.parametrize("weights", [[], states(1)])
def test_fewer_than_two_sets(weights):
    with pytest.raises(ValueError, match="at least two sets of weights to compare, got"):
        compare(mlp(0), weights)


def test_one_mapping_is_no_sequence():
    with pytest.raises(ValueError, match="weights must be a sequence, got OrderedDict"):
        compare(mlp(0), mlp(0).state_dict())


def test_different_architectures():
    wide = mlp(1, width=20).state_dict()
    with pytest.raises(ValueError, match=r"weights\[1\]\['0.weight'\].*All sets must be weights"):
        compare(mlp(0), [mlp(0).state_dict(), wide])


def test_a_flat_tensor_of_another_length():
    with pytest.raises(ValueError, match=r"weights\[0\] must be flat, with one entry for each"):
        compare(mlp(0), [torch.zeros(3), mlp(0).state_dict()])


def test_a_missing_key():
    one, other = states()
    del other["2.bias"]
    with pytest.raises(ValueError, match=r"weights\[1\] lacks '2.bias'"):
        compare(mlp(0), [one, other])


def test_weights_that_are_nan():
    one, other = states()
    other["2.bias"] = torch.tensor([0.0, torch.nan])
    with pytest.raises(ValueError, match=r"weights\[1\] must be finite, got NaN .* in '2.bias', 1"):
        compare(mlp(0), [one, other])


def test_a_loss_that_is_not_finite_at_an_end():
    def loss(net, batch):
        return net.w[0].log()

    with pytest.raises(ValueError, match=r"got nan at weights\[1\]"):
        lm.connectivity(TwoWeights(), NO_DATA, list(MINIMA[:2]), loss_fn=loss)


def test_sets_that_differ_in_frozen_parameters():
    net = mlp(0)
    net[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"the frozen parameter '0\.weight'\. Unfreeze it"):
        compare(net, states())


def test_sets_that_differ_in_frozen_parameters_only():
    net = mlp(0)
    net[0].requires_grad_(False)
    one, other = states()
    same = {**one, "0.bias": other["0.bias"]}
    with pytest.raises(ValueError, match=r"'0\.bias' and in no trainable weight\. Unfreeze it"):
        compare(net, [one, same])


def test_frozen_parts_of_another_shape():
    net = mlp(0)
    net[0].requires_grad_(False)
    wide = [{**s, "0.bias": torch.zeros(20)} for s in states()]
    with pytest.raises(ValueError, match=r"\['0.bias'\] must have shape \(12,\) as in the module"):
        compare(net, wide)


def test_generators_and_loaders_are_batches():
    given = [batches(), (b for b in batches()), iter(batches())]
    found = [
        lm.connectivity(mlp(0), each, states(), loss_fn=cross_entropy).losses.tolist()
        for each in given
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("given", "kind"), [(3, "int"), (None, "NoneType"), ({"x": 1}, "dict")])
def test_what_is_no_list_of_batches(given, kind):
    with pytest.raises(ValueError, match=f"batches must be a list of batches .* got {kind}. Put"):
        lm.connectivity(mlp(0), given, states(), loss_fn=cross_entropy)


def test_a_generator_that_is_used_up():
    with pytest.raises(ValueError, match="batches must hold at least one probe batch, got none"):
        lm.connectivity(mlp(0), iter([]), states(), loss_fn=cross_entropy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to("meta"), "got a meta tensor, which holds none. Load"),
        (lambda t: t.int(), r"got torch.int32. Convert it with .float\(\)"),
        (lambda t: t > 0, "got torch.bool. Convert"),
        (lambda t: t.to(torch.complex64), "got torch.complex64. Give its real part"),
        (lambda t: t.to_sparse(), r"another form \(sparse_coo\). Make it dense"),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            r"another form \(quantized\). Make it dense",
        ),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_tensors_that_hold_no_weights(change, said, flat):
    one, other = states()
    if flat:
        other = change(torch.cat([t.reshape(-1) for t in other.values()]))
    else:
        other["2.bias"] = change(other["2.bias"])
    name = r"weights\[1\]" + ("" if flat else r"\['2.bias'\]")
    with pytest.raises(ValueError, match=name + " must hold floating-point numbers .*" + said):
        compare(mlp(0), [one, other])


def test_frozen_parts_without_numbers():
    net = mlp(0)
    net[0].requires_grad_(False)
    one, other = states()
    other = {**one, "2.bias": other["2.bias"], "0.bias": one["0.bias"].to("meta")}
    with pytest.raises(ValueError, match=r"weights\[1\]\['0.bias'\] must hold numbers .* meta"):
        compare(net, [one, other])


def test_entries_that_the_module_has_not_are_noted():
    one, other = states()
    more = {**other, "4.weight": torch.zeros(2), "epoch": 3}
    found = compare(mlp(0), [one, more])
    assert found.notes == (
        "weights[1] has '4.weight' and 1 more, which the module has not: not used",
    )
    assert compare(mlp(0), [one, other]).notes == ()


def test_modules_without_real_weights():
    net = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"real weights, got torch\.complex64 in 'weight'"):
        compare(net, [net.state_dict()] * 2)
    with pytest.raises(ValueError, match=r"weights in memory, got '0\.weight' on the meta"):
        compare(mlp(0).to("meta"), states())


def test_sparse_buffers_are_compared():
    def graph(scale):
        made = Scaled(1.0)
        made.register_buffer("graph", (scale * torch.eye(2)).to_sparse())
        return made

    one, other = graph(1.0), graph(1.0)
    other.inner.load_state_dict(mlp(1).state_dict())
    assert compare(graph(3.0), [one.state_dict(), other.state_dict()]).notes == ()


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.inner = mlp(0)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x):
        return self.scale * self.inner(x)


def test_sets_that_differ_in_buffers_only():
    with pytest.raises(ValueError, match="the buffer 'scale' and in no trainable weight"):
        compare(Scaled(1.0), [Scaled(1.0).state_dict(), Scaled(2.0).state_dict()])


def test_a_buffer_that_differs_besides_is_noted():
    one, other = Scaled(1.0), Scaled(2.0)
    other.inner.load_state_dict(mlp(1).state_dict())
    found = compare(Scaled(3.0), [one.state_dict(), other.state_dict()])
    assert found.notes == (
        "buffer 'scale' differs between weights[0] and weights[1]: everywhere its value is that "
        "of weights[0]",
    )
    same = compare(one, [one.state_dict(), {**other.state_dict(), "scale": torch.tensor(1.0)}])
    assert same.losses.tolist() == found.losses.tolist()


def test_a_sharded_checkpoint_is_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"must be a file with whole weights.*Consolidate"):
        compare(mlp(0), [tmp_path, mlp(0).state_dict()])


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights\[0\] \(.*a.ckpt\) must be a file that torch"):
        compare(mlp(0), [tmp_path / "a.ckpt", mlp(0).state_dict()])


def test_shards_of_an_optimizer_are_no_weights(tmp_path):
    torch.save({"optimizer_states": [{"exp_avg": torch.zeros(3)}]}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"lacks '0\.bias', which is a trainable parameter"):
        compare(mlp(0), [tmp_path / "a.ckpt", mlp(0).state_dict()])


def test_a_loss_that_is_noise():
    counter = itertools.count(1)

    def loss(net, batch):
        own = torch.Generator().manual_seed(next(counter))  # no seed reaches it
        return himmelblau(net, batch) + 300 * torch.rand((), generator=own)

    with pytest.raises(ValueError, match="the loss must be a function of the weights, got values"):
        lm.connectivity(TwoWeights(), NO_DATA, list(MINIMA[:2]), loss_fn=loss)


def test_dropout_and_seeded_noise_are_no_noise():
    net = nn.Sequential(mlp(0), nn.Dropout(0.5))

    def loss(module, batch):
        return cross_entropy(module, batch) + 0.01 * torch.rand(())

    weights = [{f"0.{k}": v for k, v in s.items()} for s in states()]
    found = lm.connectivity(net, batches(), weights, loss_fn=loss)
    assert np_finite(found.losses)


def np_finite(values):
    return bool((values == values).all())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("tolerance", 0.0, "tolerance must be a positive number"),
        ("precision", float("nan"), "precision must be a positive number"),
        ("confidence", 1.0, "confidence must lie strictly between 0 and 1"),
        ("most_evaluations", 6, "most_evaluations must be an integer of at least 7"),
    ],
)
def test_arguments_out_of_range(option, value, said):
    with pytest.raises(ValueError, match=said):
        compare(mlp(0), states(), **{option: value})


def test_a_batch_without_statistics():
    net, one = mlp(0, normalised=True), (torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got one that has none: Expected more than 1.*Leave out"):
        lm.connectivity(net, [one], states(normalised=True), loss_fn=cross_entropy)
