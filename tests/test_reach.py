"""Types of hidden features that nothing reaches, or nothing hears, have no weights."""

import laws
import pytest
import torch
from catalogue import SQUARE, groups
from torch.nn import functional

import fieldsym as fs
from fieldsym.operators import steerable_fno
from fieldsym.operators.reach import nonzero_products, recast, stages

CUBE = fs.Torus((1.0, 1.5, 1.2))


def operator(source, target, group, hidden=None, norm=None, n_layers=1):
    base = SQUARE if group.dim == 2 else CUBE
    bundles = fs.Bundle(base, source), fs.Bundle(base, target)
    torch.manual_seed(0)
    model = fs.SteerableFNO(
        *bundles, group=group, n_modes=5, hidden=hidden, hidden_channels=24, n_layers=n_layers,
        degree=4, norm=norm, non_linearity=functional.softplus,
    )  # fmt: skip
    return model.double(), laws.noise(bundles[0], (8, 9, 7)[: group.dim])


def silent(model, u):
    """Entries of the weights without a slope at any of a few generic weights and amplitudes."""
    start = [p.detach().clone() for p in model.parameters()]
    steepest = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for amplitude, scale in ((1, 0.4), (1, 1.0), (10, 1.0), (3, 2.0)):
        with torch.no_grad():
            for p, value in zip(model.parameters(), start, strict=True):
                p.copy_(scale * value + 0.1 * torch.randn_like(p))
        model.zero_grad()
        y = model(amplitude * u)
        (y * torch.randn_like(y)).sum().backward()
        slopes = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        size = max(float(g.abs().max()) for g in slopes.values())
        for name, slope in slopes.items():
            steepest[name] = torch.maximum(steepest[name], slope.abs() / size)
    return {n: int((g <= 1e-15).sum()) for n, g in steepest.items() if (g <= 1e-15).any()}


CASES = [
    ("scalar p", "pseudoscalar w", groups.o(2), None),  # pseudoscalars come with the first gates
    ("scalar p", "scalar p", groups.o(2), "2 scalar + pseudoscalar"),  # never
    ("scalar p", "pseudoscalar w", groups.o(2), "3 scalar + vector"),  # no scalars at the end
    ("pseudoscalar w", "pseudoscalar w", groups.o(2), "2 scalar + 2 pseudoscalar"),
    ("pseudoscalar w", "scalar p", groups.o(2), "2 scalar + pseudoscalar"),
    ("symmetric tensor s", "vector u", groups.o(2), "2 scalar + vector + 2 scalar"),
    ("pseudoscalar w", "pseudoscalar w", groups.o(3), None),
    ("pseudoscalar w", "symmetric tensor s", groups.o(3), "2 scalar + pseudoscalar + 2 vector"
     " + axial vector"),
    ("scalar p", "vector u", groups.so(3), "3 scalar + vector"),  # one vector: no cross product
    ("axial vector b", "pseudoscalar w", groups.so(3), "2 scalar + 2 pseudoscalar + vector"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "group", "hidden"), CASES, ids=str)
@pytest.mark.parametrize("norm", [None, "instance_norm"])
def test_every_entry_of_every_weight_learns(source, target, group, hidden, norm):
    for n_layers in (1, 2):
        assert not silent(*operator(source, target, group, hidden, norm, n_layers))


def test_every_type_everywhere_leaves_weights_without_a_slope(monkeypatch):
    def everywhere(rep_in, hidden, rep_out, group, n):
        return [fs.Representation(str(hidden), group.dim) for _ in range(2 * n + 1)]

    monkeypatch.setattr(steerable_fno, "stages", everywhere)
    asleep = silent(*operator("pseudoscalar w", "pseudoscalar w", groups.o(3)))
    assert asleep["layers.0.mix.convolution.symbol.weight_4"] == 1  # the vector gets no input
    assert asleep["layers.0.mlp.second.weight"] > 0


def test_types_are_held_from_where_they_are_reached():
    rep = lambda text: fs.Representation(text, 3)  # noqa: E731
    hidden = rep("scalar + pseudoscalar + 2 vector + axial vector")
    held = stages(rep("scalar p"), hidden, rep("pseudoscalar w"), groups.o(3), 2)
    assert [repr(r) for r in held] == [
        "scalar + 2 vector",  # p, ∇p
        "scalar + 2 vector + axial vector",  # curls of gated vectors
        "scalar + pseudoscalar + 2 vector + axial vector",  # v·b
        "scalar + pseudoscalar + 2 vector + axial vector",
        "pseudoscalar + axial vector",  # w and div b
    ]
    # what every type reaches at once is held throughout
    flow = rep("scalar p + vector u")
    held = stages(flow, hidden, rep("vector u + axial vector b"), groups.so(3), 1)
    assert all(r == hidden for r in held)


@pytest.mark.parametrize(
    ("text", "group", "made"),
    [
        ("scalar + vector", groups.so(3), ["scalar", "vector"]),
        ("scalar + 2 vector", groups.so(3), ["scalar", "vector", "vector"]),
        ("vector + axial vector", groups.so(3), ["vector"] * 2 + ["axial vector"] * 2),
        ("pseudoscalar + vector", groups.o(2), ["vector"]),
        ("pseudoscalar + 2 vector", groups.o(2), ["pseudoscalar", "vector"]),
        ("pseudoscalar + vector", groups.so(2), ["pseudoscalar", "vector"]),
        ("pseudoscalar + scalar", groups.o(2), []),
    ],
)
def test_a_vector_has_no_cross_product_with_itself(text, group, made):
    rep = fs.Representation(text, group.dim)
    assert [out for out, _, _ in nonzero_products(rep, rep, group)] == made


def test_features_are_carried_over_by_type():
    source = fs.Representation("2 scalar + pseudoscalar + scalar", 2)
    target = fs.Representation("2 scalar + vector + scalar", 2)
    x = torch.arange(1.0, 5.0).view(1, 4, 1, 1).expand(2, 4, 3, 4)
    assert recast(x, source, target)[1, :, 2, 3].tolist() == [1.0, 2.0, 0.0, 0.0, 4.0]
    assert recast(x, source, source) is x


@pytest.mark.parametrize(
    ("source", "target", "hidden"),
    [
        ("scalar p", "pseudoscalar w", "2 scalar"),
        ("pseudoscalar w", "scalar p", "2 scalar"),
        ("scalar p", "pseudoscalar w", "2 scalar + 3 pseudoscalar"),
    ],
)
def test_hidden_types_without_a_path_are_refused(source, target, hidden):
    message = f"No path leads from '{source}' through .*'{hidden}' to '{target}'.*Give vectors"
    with pytest.raises(fs.RepresentationError, match=message.replace("+", r"\+")):
        operator(source, target, groups.o(2), hidden)
    operator(source, target, groups.so(2), hidden)  # rotations alone tell no mirror images apart
