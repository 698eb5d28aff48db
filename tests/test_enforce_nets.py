"""Enforce on convolutional networks, blocks and registered layers; tables against averages."""

import copy
import itertools

import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups
from torch import nn
from torch.nn import functional

import fieldsym as fs
from fieldsym.operators import adopt, adopt_tie
from fieldsym.operators.adopt_tables import kernel_moves, whole_table
from fieldsym.operators.adopt_types import Types, Unknown
from fieldsym.operators.adopt_weights import TiedWeight
from fieldsym.operators.constraints import PointwiseConstraint

D4, D2, C4 = groups.dihedral(4), groups.dihedral(2), groups.cyclic(4)
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
WHIRL = fs.Bundle(SQUARE, "pseudoscalar w + vector u + symmetric tensor s")
RECTANGLE = fs.Bundle(OBLONG, "pseudoscalar w + vector u")
CHANNEL = fs.Bundle(fs.Box((2.0, 3.0), periodic=(True, False)), "scalar p + vector u")
REGULAR = fs.Bundle(SQUARE, "regular r + axial vector b", D4)
LINE = fs.Bundle(fs.Torus((2.0,)), "pseudoscalar w + scalar p")
CUBE = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "scalar p + symmetric traceless tensor t")
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def conv(inside, out, size=3, dim=2, **options):
    options = {"padding": size // 2, "padding_mode": "circular"} | options
    return CONVS[dim](inside, out, size, **options)


def net(source=FLOW, target=FLOW, width=16, middle=None, dim=2, size=3):
    return nn.Sequential(
        conv(source.channels, width, size, dim),
        nn.GELU(),
        *([] if middle is None else [middle]),
        conv(width, target.channels, 1, dim),
    )


def assert_exact(model, group, source, target, grid, dtype):
    model = model.to(dtype)
    laws.assert_equivariant(model, group, source, target, grid, dtype, EXACT[dtype])
    laws.assert_translates(model, source, grid, dtype, EXACT[dtype])


def assert_released(model, source, grid, dtype):
    u = laws.noise(source, grid, dtype)
    value = model(u)
    value.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    assert torch.equal(fs.release(model)(u), value)
    assert not adopt_tie.constrained(model)


class UNet(nn.Module):
    """One concatenation, one residual, a dilated layer, a learned slope."""

    def __init__(self, inside, out, width=16):
        super().__init__()
        self.first, self.second = conv(inside, width), conv(width, width, 3)
        self.dilated = conv(width, width, padding=2, dilation=2)
        self.joined, self.last = conv(2 * width + inside, width), conv(width, out)
        self.slope = nn.PReLU(width)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x):
        a = functional.silu(self.first(x))
        b = torch.relu(self.norm(self.second(a))) + a
        c = self.slope(self.dilated(b))
        return self.last(functional.gelu(self.joined(torch.cat([c, x, a], 1))))


class ChannelsLast(nn.Module):
    """Linear layers on permuted axes, a residual of the input, a global feature."""

    def __init__(self, channels, width=16):
        super().__init__()
        self.up, self.down = nn.Linear(channels, width), nn.Linear(width, channels)
        self.pooled = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        y = self.norm(self.up(x.permute(0, 2, 3, 1)))
        y = y + self.pooled(y.mean((1, 2), keepdim=True))
        return x + self.down(functional.gelu(y)).movedim(-1, 1)


class Pooled(nn.Module):
    """A gate from a global mean, points in one axis, images joined to the batch."""

    def __init__(self, channels, width=16):
        super().__init__()
        self.up, self.down = conv(channels, width), nn.Linear(width, channels)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())

    def forward(self, x):
        y = self.up(x)
        y = y * self.gate(y.mean((2, 3)))[..., None, None]
        rows = y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])
        return self.down(rows).view(*y.shape[:1], *y.shape[2:], -1).permute(0, 3, 1, 2)


CASES = {
    "D4": (D4, FLOW, WHIRL, ((12, 12), (13, 13)), lambda: net(FLOW, WHIRL)),
    "C4, wide kernel": (C4, FLOW, WHIRL, ((12, 12),), lambda: net(FLOW, WHIRL, 12, size=5)),
    "D2 on a rectangle": (D2, RECTANGLE, RECTANGLE, ((10, 13),), lambda: net(RECTANGLE, RECTANGLE)),
    "translations": (groups.translations(2) * D4, FLOW, FLOW, ((12, 12),), lambda: net()),
    "walls of a box": (
        *(groups.reflections(2), CHANNEL, CHANNEL, ((10, 13),)),
        lambda: net(CHANNEL, CHANNEL, 8),
    ),
    "regular fields in and out": (D4, REGULAR, REGULAR, ((12, 12),), lambda: net(REGULAR, REGULAR)),
    "padding by name": (
        *(D4, FLOW, FLOW, ((12, 12),)),
        lambda: nn.Sequential(conv(3, 8, 5, padding="same"), nn.ReLU(), conv(8, 3)),
    ),
    "1-D": (groups.reflections(1), LINE, LINE, ((11,),), lambda: net(LINE, LINE, 6, dim=1)),
    "3-D, traceless tensors": (
        *(groups.octahedral(reflections=False), CUBE, CUBE, ((6, 6, 6),)),
        lambda: net(CUBE, CUBE, 25, dim=3),
    ),
    "concatenations": (D4, FLOW, WHIRL, ((12, 12),), lambda: UNet(3, 6)),
    "channels last": (D4, FLOW, FLOW, ((12, 12),), lambda: ChannelsLast(3)),
    "instance norm": (
        *(D4, FLOW, FLOW, ((12, 12),)),
        lambda: net(middle=nn.InstanceNorm2d(16, affine=True)),
    ),
    "one slope": (D4, FLOW, FLOW, ((12, 12),), lambda: net(middle=nn.PReLU())),
    "padding by hand": (
        *(D4, FLOW, FLOW, ((12, 12),)),
        lambda: nn.Sequential(nn.CircularPad2d(1), conv(3, 3, padding=0, padding_mode="zeros")),
    ),
    "pooled": (
        *(D4, FLOW, FLOW, ((12, 12),)),
        lambda: Pooled(3),
    ),
    "odd functions": (
        *(D4, FLOW, FLOW, ((12, 12),)),
        lambda: nn.Sequential(conv(3, 3), nn.Tanh(), conv(3, 3)),
    ),
}
HIDDEN = {"odd functions": "scalar + vector"}


@pytest.mark.parametrize("name", CASES)
def test_exact_trainable_and_released(name, dtype):
    group, source, target, grids, build = CASES[name]
    model = build().to(dtype)
    fs.enforce(model, group, source, target, HIDDEN.get(name))
    points = D4 if group.generators else group
    for grid in grids:
        assert_exact(model, points, source, target, grid, dtype)
    assert_released(model, source, grids[0], dtype)
    assert_exact(model, points, source, target, grids[0], dtype)


def test_can_be_evaluated():
    model = fs.enforce(net().double(), D4, FLOW, FLOW)
    u = laws.noise(FLOW, (12, 12))
    report = fs.evaluate(model, D4, u, FLOW, FLOW)
    assert float(report["defect"].max()) < 1e-12


class Gated(nn.Module):
    """Vectors times a function of their length: bends nothing by components."""

    def __init__(self):
        super().__init__()
        self.up, self.down = conv(3, 8), conv(8, 3)

    def forward(self, x):
        v = self.up(x)
        length = v.square().unflatten(1, (4, 2)).sum(2, keepdim=True)
        gate = torch.rsqrt(1 + length).expand(-1, -1, 2, -1, -1).flatten(1, 2)
        return self.down(v * gate)


def test_vectors_inside(dtype):
    model = fs.enforce(Gated(), D4, FLOW, FLOW, hidden="4 vector")
    assert_exact(model, D4, FLOW, FLOW, (12, 12), dtype)


def test_parity_is_part_of_the_type():
    """Saboteur: enforced for a scalar, the network fails the law of a pseudoscalar."""
    scalar, pseudo = (fs.Bundle(SQUARE, f"{word} w") for word in ("scalar", "pseudoscalar"))
    model = fs.enforce(net(scalar, scalar), D4, scalar, scalar)
    assert_exact(model, D4, scalar, scalar, (12, 12), torch.float32)
    with pytest.raises(AssertionError):
        assert_exact(model, D4, pseudo, pseudo, (12, 12), torch.float32)


def test_stays_exact_in_training(dtype):
    model = fs.enforce(UNet(3, 6), D4, FLOW, WHIRL).to(dtype)
    u, target = laws.noise(FLOW, (8, 8), dtype), laws.noise(WHIRL, (8, 8), dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (model(u) - target).square().mean().backward()
        optimizer.step()
    assert_exact(model, D4, FLOW, WHIRL, (9, 9), dtype)


def kernel_mean(weight, group, left, right):
    """Mean of ρ_out(g) W(g⁻¹ o) ρ_in(g)⁻¹ over the group, offset by offset."""
    sizes = weight.shape[2:]
    mean = torch.zeros_like(weight)
    for g, o in itertools.product(group.elements, np.ndindex(*sizes)):
        centred = np.array(o) - np.array(sizes) // 2
        back = tuple(np.rint(g.inverse.matrix @ centred).astype(int) + np.array(sizes) // 2)
        mean[(slice(None), slice(None), *o)] += (
            left.rho(g) @ weight[(slice(None), slice(None), *back)] @ right.rho(g.inverse)
        )
    return mean / group.order


@pytest.mark.parametrize("group", [C4, D4, groups.dihedral(1)], ids=repr)
def test_kernels_are_the_mean_over_the_group(group):
    layer = conv(3, 6, 5).double()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    left, right = WHIRL.representation, FLOW.representation
    removed = fs.project_(layer, group, FLOW, WHIRL)
    want = kernel_mean(weight, group, left, right)
    assert torch.allclose(layer.weight, want, atol=1e-14)
    constant = sum(left.rho(g) @ bias for g in group.elements) / group.order
    assert torch.allclose(layer.bias, constant, atol=1e-14)
    assert removed["weight"] == pytest.approx(float((weight - want).norm() / weight.norm()))


def test_other_matrices_are_solved_by_least_squares():
    """Traceless tensors in space are no signed permutations: the nearest of all allowed kernels."""
    group, types = groups.octahedral(), Types(groups.octahedral())
    offsets = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    kinds = ("symmetric traceless tensor",), ("vector", "symmetric traceless tensor")
    table = whole_table(types.rho, *kinds, kernel_moves(group, offsets), 1)
    tied = TiedWeight(table.code, table.values, table.free)
    left, right = (types.representation(k) for k in kinds)
    weight = torch.randn(5, 8, 27, 1, dtype=torch.float64)
    got = tied(tied.right_inverse(weight)[0])
    assert torch.allclose(
        kernel_mean(got.view(5, 8, 3, 3, 3), group, left, right).view_as(got), got, atol=1e-12
    )
    average = kernel_mean(weight.view(5, 8, 3, 3, 3), group, left, right).view_as(weight)
    assert torch.allclose(tied(tied.right_inverse(average)[0]), average, atol=1e-12)
    basis = torch.stack([tied(e).flatten() for e in torch.eye(table.free, dtype=torch.float64)])
    assert torch.linalg.matrix_rank(basis) == table.free
    assert ((weight - got).flatten() @ basis.mT).abs().max() < 1e-10
    trace = sum(
        left.rho(g).trace() * right.rho(g).trace() * (offsets @ g.matrix.T == offsets).all(1).sum()
        for g in group.elements
    )
    assert table.free == round(float(trace) / group.order)


# Blocks -------------------------------------------------------------------------------------------


class BlockConv(nn.Module):
    """Spectral convolution with its rows in blocks 0..m−1 and −m..−1."""

    def __init__(self, inside, out, modes, real=False):
        super().__init__()
        self.modes, self.real, self.out = modes, real, out
        shape = (inside, out, *modes) + ((2,) if real else ())
        kind = torch.float32 if real else torch.complex64
        for i in range(2 ** (len(modes) - 1)):
            weight = nn.Parameter(torch.randn(shape, dtype=kind) / inside)
            self.register_parameter(f"weights{i + 1}", weight)

    def forward(self, u):
        dims = tuple(range(2, u.ndim))
        spectrum = torch.fft.rfftn(u, dim=dims)
        out = spectrum.new_zeros(len(u), self.out, *spectrum.shape[2:])
        for i in range(2 ** (len(self.modes) - 1)):
            weight = getattr(self, f"weights{i + 1}")
            weight = torch.view_as_complex(weight.contiguous()) if self.real else weight
            rows = [slice(-m, None) if i >> a & 1 else slice(0, m)
                    for a, m in enumerate(self.modes[:-1])]  # fmt: skip
            where = (slice(None), slice(None), *rows, slice(0, self.modes[-1]))
            out[where] = torch.einsum("bi...,io...->bo...", spectrum[where], weight)
        return torch.fft.irfftn(out, s=u.shape[2:], dim=dims)


def block_net(source, target, modes, width, real):
    dim = len(modes)
    return nn.Sequential(
        conv(source.channels, width, 1, dim),
        BlockConv(width, width, modes, real),
        nn.GELU(),
        conv(width, target.channels, 1, dim),
    )


BLOCKS = [
    (D4, FLOW, (4, 4), (12, 12), 16),
    (C4, FLOW, (4, 4), (9, 9), 8),
    (D2, RECTANGLE, (3, 4), (10, 13), 8),
    (groups.reflections(1), LINE, (4,), (11,), 4),
    (groups.octahedral(reflections=False), CUBE, (2, 2, 2), (6, 6, 6), 24),
]


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize(("group", "bundle", "modes", "grid", "width"), BLOCKS, ids=str)
def test_blocks(group, bundle, modes, grid, width, real):
    model = block_net(bundle, bundle, modes, width, real)
    state = copy.deepcopy(model).state_dict()
    fs.enforce(model, group, bundle, bundle)
    assert_exact(model, group, bundle, bundle, grid, torch.float32)
    twin = copy.deepcopy(model)
    u = laws.noise(bundle, grid, torch.float32)
    value = model(u)
    assert torch.equal(twin(u), value)
    with torch.no_grad():  # the copy reads its own numbers
        for p in twin[1].parameters():
            p.mul_(2)
    assert torch.equal(model(u), value)
    assert_exact(twin, group, bundle, bundle, grid, torch.float32)
    assert_released(model, bundle, grid, torch.float32)
    fresh = block_net(bundle, bundle, modes, width, real)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(u), value)
    assert state.keys() == model.state_dict().keys()


def test_the_unpaired_row_is_masked():
    layer = BlockConv(3, 3, (4, 4))
    fs.project_(layer, D4, FLOW, FLOW)
    assert not layer.weights2[:, :, 0].any()
    assert layer.weights2[:, :, 1:].any()
    column = torch.cat([layer.weights2[:, :, 1:, 0], layer.weights1[:, :, :, 0]], 2)
    assert torch.equal(column, column.flip(2).conj())


def test_block_grids():
    model = fs.enforce(BlockConv(3, 3, (4, 4)), D4, FLOW, FLOW)
    with pytest.raises(fs.GridError, match=r"^The module itself stores .* grid of \(7, 7\) points"):
        model(torch.zeros(1, 3, 7, 7))
    with pytest.raises(fs.GridError, match=r"^The module itself has modes \(3, 4\), but dihed"):
        fs.enforce(BlockConv(3, 3, (3, 4)), D4, FLOW, FLOW)


# Layers of users ----------------------------------------------------------------------------------


class Mix(nn.Module):
    def __init__(self, inside, out):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(out, inside))

    def forward(self, x):
        return torch.einsum("oi,bi...->bo...", self.matrix, x)


def test_registered_layers(dtype):
    model = nn.Sequential(Mix(3, 16), nn.GELU(), Mix(16, 6))
    with pytest.raises(
        fs.GroupError,
        match=r"0.matrix belongs to a Mix, which adoption does not know.*parameters are all real",
    ):
        fs.enforce(model, D4, FLOW, WHIRL)
    before = [layer.matrix.detach().double() for layer in (model[0], model[2])]
    adopt.register(Mix, lambda layer, i, o: {"matrix": PointwiseConstraint(i, o)})
    try:
        fs.enforce(model, D4, FLOW, WHIRL)
        assert_exact(model, D4, FLOW, WHIRL, (8, 8), dtype)
        hidden = fs.Representation("2 regular", 2, D4)
        mean = (
            sum(hidden.rho(g) @ before[0] @ FLOW.representation.rho(g.inverse) for g in D4.elements)
            / D4.order
        )
        assert torch.allclose(model[0].matrix.double(), mean, atol=1e-6)
        assert_released(model, FLOW, (8, 8), dtype)
        adopt.register(Mix, lambda layer, i, o: {})
        with pytest.raises(
            fs.GroupError, match=r"constraints registered for Mix are those of \[\]"
        ):
            fs.enforce(model, D4, FLOW, WHIRL)
        model[0].matrix = nn.Parameter(torch.randn(16, 3, dtype=torch.complex64))
        adopt.register(Mix, lambda layer, i, o: {"matrix": PointwiseConstraint(i, o)})
        with pytest.raises((fs.GroupError, fs.BundleError), match=r"complex|does not accept"):
            fs.enforce(model, D4, FLOW, WHIRL)
    finally:
        adopt._REGISTERED.pop(Mix)


# Refusals -----------------------------------------------------------------------------------------


class Forward(nn.Module):
    """Some layers, and a forward that a test writes."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x)


def share(pair):
    pair[1].weight = pair[0].weight
    return pair


def renamed(block):
    for i in (1, 2):
        weight = getattr(block, f"weights{i}")
        delattr(block, f"weights{i}")
        setattr(block, f"w{i}", weight)
    return block


def positions(x):
    return torch.linspace(-1, 1, x.shape[-1]).square().expand(len(x), 1, *x.shape[2:])


REFUSED = {
    "stride": (lambda: conv(3, 3, stride=2), fs.GroupError, "^The module itself has stride"),
    "zeros": (lambda: conv(3, 3, padding_mode="zeros"), fs.GroupError, "^The module itself pads"),
    "short padding": (lambda: conv(3, 3, 5, padding=1), fs.GroupError, r"with \(2, 2\) samples"),
    "no padding": (lambda: conv(3, 3, padding=0), fs.GridError, r"points into \(8, 8\)"),
    "even kernel": (lambda: conv(3, 3, 4), fs.GridError, "^The module itself has a kernel"),
    "oblong kernel": (
        lambda: nn.Conv2d(3, 3, (3, 5), padding=(1, 2), padding_mode="circular"),
        *(fs.GridError, r"kernel \(3, 5\), but dihedral\(4\) exchanges"),
    ),
    "groups": (lambda: conv(3, 3, groups=3), fs.GroupError, "^The module itself is a grouped"),
    "wrong dimension": (
        lambda: Forward(lambda m, x: m.a(x.flatten(2)).view(x.shape), a=conv(3, 3, dim=1)),
        *(fs.GroupError, "1-D convolution.*base has 2"),
    ),
    "batch norm": (
        lambda: net(middle=nn.BatchNorm2d(16)), fs.GroupError, "statistics of every channel",
    ),
    "layer norm of a grid": (
        lambda: net(middle=nn.LayerNorm((16, 10, 10))), fs.GroupError, "every point of one grid",
    ),
    "norm of vectors": (
        lambda: nn.Sequential(nn.GroupNorm(1, 3), conv(3, 3)),
        *(fs.GroupError, r"0 \(GroupNorm\) treats every channel of 'scalar \+ vector'.* by hidden"),
    ),
    "gelu of vectors": (
        lambda: nn.Sequential(conv(3, 3), nn.GELU()), fs.GroupError,
        r"gelu in 1 bends every.*hidden=\{'name': '2 regular'\}.*or replace it",
    ),
    "separate groups": (
        lambda: net(width=24, middle=nn.GroupNorm(4, 24)),
        *(fs.GroupError, r"first output that breaks the symmetry is that of 2 \(GroupNorm\)"),
    ),
    "pooling": (
        lambda: net(middle=nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2))),
        *(fs.GroupError, r"2.0 \(MaxPool2d\)|2.1 \(Upsample\)"),
    ),
    "positions": (
        lambda: Forward(lambda m, x: m.a(x) + positions(x), a=conv(3, 3)),
        *(fs.GroupError, "first output that breaks the symmetry is that of the module itself"),
    ),
    "coordinates joined": (
        lambda: Forward(lambda m, x: m.a(torch.cat([x, positions(x)], 1)), a=conv(4, 3)),
        *(fs.GroupError, "lost at a concatenation with a tensor of unknown type"),
    ),
    "unknown parameter": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1)), fs.GroupError,
        "0.weight belongs.*does not know.*adopt.register takes layer classes whose.*are all real",
    ),
    "blocks of other names": (
        lambda: renamed(BlockConv(3, 3, (4, 4))), fs.GroupError,
        r"Known by their names.*weights1 with the rows.*weights2.*Rename its weights so, or make",
    ),
    "dropout of channels": (
        lambda: net(middle=nn.Dropout2d(0.1)), fs.GroupError,
        r"2 is a Dropout2d with p=0.1: .*differ between a field and its image.*or set p=0",
    ),
    "dropout of points": (
        lambda: nn.Dropout(0.5), fs.GroupError, "The module itself is a Dropout with p=0.5",
    ),
    "dropout by a function": (
        lambda: Forward(lambda m, x: functional.dropout(m.a(x), 0.2, m.training), a=conv(3, 3)),
        *(fs.GroupError, "The module itself calls dropout with p=0.2: in training"),
    ),
    "chunks": (
        lambda: Forward(lambda m, x: m.b(m.a(x).chunk(2, 1)[0]), a=conv(3, 16), b=conv(8, 3)),
        *(fs.GroupError, "to b: they were lost at chunk in the module itself.*Replace it by these"),
    ),
    "1-D at the root": (
        lambda: conv(3, 3, dim=1), fs.GroupError, r"^The module itself is a 1-D conv.*nn.Conv2d",
    ),
    "unused layer": (
        lambda: Forward(lambda m, x: m.a(x), a=conv(3, 3), b=conv(3, 3)),
        *(fs.GroupError, "does not use b"),
    ),
    "one layer for two types": (
        lambda: Forward(lambda m, x: m.b(m.b(m.a(x))), a=conv(3, 8), b=conv(8, 3)),
        *(fs.BundleError, "does not accept"),
    ),
    "different sums": (
        lambda: Forward(lambda m, x: m.a(x) + x[:, [1, 2, 0]] + x.flip(1), a=conv(3, 3)),
        *(fs.GroupError, "does not commute with"),
    ),
    "shared parameter": (
        lambda: share(nn.Sequential(conv(3, 3), conv(3, 3))),
        *(fs.GroupError, "0 and 1 share the parameter weight"),
    ),
    "linear on points": (
        lambda: Forward(lambda m, x: m.a(x), a=nn.Linear(10, 10)),
        *(fs.GroupError, "mixes points, not channels"),
    ),
    "split": (
        lambda: Forward(lambda m, x: m.a(x[:, 1:]), a=conv(2, 3)),
        *(fs.GroupError, "lost at __getitem__ in the module itself"),
    ),
    "lost output": (
        lambda: Forward(lambda m, x: m.a(x).cumsum(1)[:, :1].expand(-1, 3, -1, -1), a=conv(3, 3)),
        *(fs.GroupError, "followed to the output|does not commute"),
    ),
    "lost at the output": (
        lambda: Forward(lambda m, x: sum(m.a(x).unfold(1, 3, 1).unbind(-1)), a=conv(3, 5)),
        *(fs.GroupError, "to the output of the module: they were lost at unfold in.*Replace it by"),
    ),
    "no grid": (lambda: Forward(lambda m, x: m.a(x).mean(2), a=conv(3, 3)), fs.BundleError, "axes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals(case):
    build, error, message = case
    model = build()
    before = dict(model.named_parameters())
    for verb in (fs.enforce, fs.project_):
        with pytest.raises(error, match=message):
            verb(model, D4, FLOW, FLOW)
        assert not adopt_tie.constrained(model)
        after = dict(model.named_parameters())
        assert list(after) == list(before)
        assert all(after[name] is before[name] for name in before)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


WRONG = {
    "text as a group": ({"group": "dihedral(4)"}, fs.GroupError, r"groups.named\(text, dim\)"),
    "no group": ({"group": None}, fs.GroupError, "group is a Group, such as.* got None"),
    "an element": ({"group": D4.elements[1]}, fs.GroupError, "group is a Group, such as"),
    "text as a bundle": (
        {"bundle_in": "scalar p"}, fs.BundleError, r"bundle_in is .*'scalar p'.*fs.Bundle\(base, ",
    ),
    "a representation": (
        {"bundle_out": FLOW.representation}, fs.BundleError, r"bundle_out .*Give fs.Bundle\(base, ",
    ),
    "a function": ({"module": torch.sin}, fs.GroupError, "module is an nn.Module.*got sin"),
    "a class": ({"module": nn.Conv2d}, fs.GroupError, "got Conv2d.* a class an instance"),
    "no module": ({"module": None}, fs.GroupError, "got NoneType"),
    "a width": ({"hidden": 16}, fs.RepresentationError, "hidden is None, a string or.*got 16"),
    "no width": ({"hidden": 0}, fs.RepresentationError, "got 0"),
    "widths": ({"hidden": {"0": 16}}, fs.RepresentationError, "got {'0': 16}"),
    "no type": ({"hidden": {"0": None}}, fs.RepresentationError, "got {'0': None}"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(case):
    options, error, message = case
    right = {"module": net(), "group": D4, "bundle_in": FLOW, "bundle_out": FLOW}
    for verb in (fs.enforce, fs.project_):
        with pytest.raises(error, match=message):
            verb(**right | options)


@pytest.mark.parametrize("thing", [torch.zeros(3), torch.sin, None])
def test_only_modules_are_released(thing):
    with pytest.raises(fs.GroupError, match=r"module is an nn.Module"):
        fs.release(thing)


def test_layers_that_run_twice(dtype):
    model = Forward(lambda m, x: m.b(m.a(m.a(x))) + m.a(x), a=conv(3, 3), b=conv(3, 3))
    assert_exact(fs.enforce(model, D4, FLOW, FLOW), D4, FLOW, FLOW, (9, 9), dtype)
    model = Forward(
        lambda m, x: m.a(torch.cat([m.b(x), m.c(x)], 1)) + m.a(x),
        a=conv(3, 3), b=conv(3, 2), c=conv(3, 1),
    )  # fmt: skip
    with pytest.raises(fs.GroupError, match="a is used on features of different types"):
        fs.enforce(model, D4, FLOW, FLOW)


def test_sums_of_different_types():
    other = fs.Bundle(SQUARE, "vector u + scalar p")
    model = Forward(lambda m, x: m.a(x) + x, a=conv(3, 3))
    with pytest.raises(fs.GroupError, match="output of the module has the types"):
        fs.enforce(model, D4, FLOW, other)
    model = Forward(lambda m, x: torch.cat([m.b(x), m.a(x)], 1) + x, a=conv(3, 1), b=conv(3, 2))
    with pytest.raises(fs.GroupError, match="adds features of different types"):
        fs.enforce(model, D4, FLOW, FLOW)


def test_translations_are_measured_where_the_group_has_them():
    """A paraboloid about the centre keeps D4 but not the shifts."""
    x = SQUARE.coordinates((10, 10), torch.float32, centred=True)
    bowl = torch.cos(2 * torch.pi * x / 1.5).sum(0)
    model = Forward(lambda m, u: m.a(u) * bowl, a=conv(3, 3))
    fs.release(fs.enforce(model, D4, FLOW, FLOW))
    with pytest.raises(fs.GroupError, match=r"does not commute with shift \(0.15, 0\)"):
        fs.enforce(model, groups.translations(2) * D4, FLOW, FLOW)


def test_zero_and_nan():
    model = conv(3, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    assert fs.project_(model, D4, FLOW, FLOW) == {"weight": 0.0, "bias": 0.0}
    with torch.no_grad():
        model.weight[0, 0, 1, 1] = torch.nan
    with pytest.raises(fs.GroupError, match=r"parameter weight is not finite.*Reload it"):
        fs.enforce(model, D4, FLOW, FLOW)
    block = BlockConv(3, 3, (4, 4))
    with torch.no_grad():
        block.weights2[0, 0, 1, 1] = complex(0, torch.inf)
    with pytest.raises(fs.GroupError, match=r"parameter weights2 is not finite.*re-initialise"):
        fs.project_(block, D4, FLOW, FLOW)


def test_outputs_that_are_not_finite():
    scalar = fs.Bundle(SQUARE, "scalar p")
    model = net(scalar, scalar, middle=nn.BatchNorm2d(16))
    model[2].running_mean[3] = torch.nan
    with pytest.raises(fs.GroupError, match=r"returns NaN or .* not finite is that of 2: look"):
        fs.enforce(model, D4, scalar, scalar, hidden="scalar")
    root = Forward(lambda m, x: m.a(x) / 0, a=conv(3, 3))
    with pytest.raises(fs.GroupError, match="not finite is that of the module itself"):
        fs.enforce(root, D4, FLOW, FLOW)
    assert not adopt_tie.constrained(model)
    assert not adopt_tie.constrained(root)


def test_weights_without_free_numbers_can_be_trained():
    pseudo = fs.Bundle(SQUARE, "pseudoscalar w")
    model = fs.enforce(net(pseudo, pseudo), D4, pseudo, pseudo)
    assert [p.numel() for p in model[2].parameters()] == [2]  # the bias is no parameter
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    u = laws.noise(pseudo, (12, 12), torch.float32)
    model(u).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())
    optimizer.step()
    assert_exact(model, D4, pseudo, pseudo, (12, 12), torch.float32)
    model.float()[2].bias = torch.ones(1)  # projected on zero
    other = fs.enforce(net(pseudo, pseudo), D4, pseudo, pseudo)
    other.load_state_dict(model.state_dict())
    twin, value = copy.deepcopy(model), model(u)
    assert torch.equal(other(u), value)
    assert torch.equal(twin(u), value)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(u), value)
    torch.compiler.reset()
    assert twin.double()[2].bias.dtype == torch.float64
    assert torch.equal(fs.release(model)[2].bias, torch.zeros(1))
    assert model[2].bias.requires_grad
    fresh = net(pseudo, pseudo)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(u), value)


def test_frozen_weights_without_free_numbers_stay_frozen():
    pseudo = fs.Bundle(SQUARE, "pseudoscalar w")
    model = net(pseudo, pseudo)
    model[2].bias.requires_grad_(False)
    fs.release(fs.enforce(model, D4, pseudo, pseudo))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["2.bias"]


class Lift(nn.Module):
    """A registered layer with a constant."""

    def __init__(self):
        super().__init__()
        self.matrix, self.shift = (nn.Parameter(torch.randn(2, n)) for n in (2, 1))

    def forward(self, x):
        return torch.einsum("oi,bi...->bo...", self.matrix, x) + self.shift[..., None]


def test_registered_weights_without_free_numbers():
    wind, scalar = fs.Bundle(SQUARE, "vector u"), fs.Representation("scalar", 2)
    adopt.register(
        Lift,
        lambda layer, i, o: {
            "matrix": PointwiseConstraint(i, o),
            "shift": PointwiseConstraint(scalar, o),
        },
    )
    try:
        model = fs.enforce(Lift(), D4, wind, wind)
    finally:
        adopt._REGISTERED.pop(Lift)
    assert [p.numel() for p in model.parameters()] == [1]
    assert_exact(model, D4, wind, wind, (8, 8), torch.float32)
    assert torch.equal(fs.release(model).shift, torch.zeros(2, 1))
    assert model.shift.requires_grad


def test_training_mode_is_kept():
    model = net(middle=nn.Dropout(0.0))
    model[0].eval()
    fs.enforce(model, D4, FLOW, FLOW)
    assert [m.training for m in model] == [False, True, True, True]


def test_functional_transforms(dtype):
    model = fs.enforce(net().to(dtype), D4, FLOW, FLOW)
    u, v = (laws.noise(FLOW, (8, 8), dtype, batch=3) for _ in range(2))
    assert torch.allclose(torch.vmap(model)(u[:, None])[:, 0], model(u), atol=1e-6)
    _, pushed = torch.func.jvp(model, (u,), (v,))
    g = D4.elements[1]
    _, moved = torch.func.jvp(model, (fs.act(g, u, FLOW),), (fs.act(g, v, FLOW),))
    laws.assert_close(moved, fs.act(g, pushed, FLOW), 10 * EXACT[dtype])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(u), model(u), atol=1e-6)
    torch.compiler.reset()


# Types --------------------------------------------------------------------------------------------


def test_types_are_unified():
    types = Types(D4)
    two, three, four = Unknown(2), Unknown(3), Unknown(4)
    assert types.unify((three,), ("scalar", "vector"))
    assert types.unify((two, "scalar"), ("vector", "scalar"))
    assert types.resolve((two, three)) == ("vector", "scalar", "vector")
    assert not types.unify((three,), ("vector", "scalar"))
    assert not types.unify(("scalar",), ("scalar", "scalar"))
    assert not types.unify((four,), ("vector", "symmetric tensor"))
    other = Unknown(4)
    assert types.unify((four,), (other,))
    types.find(other, None)
    assert types.resolve((four,)) == ("scalar",) * 4
    assert repr(Unknown(5)) == "5 channels of unknown type"
    assert str(types.representation(("regular", "regular", "vector"))) == "2 regular + vector"


def test_gains_need_channels_that_are_permuted():
    types = Types(groups.octahedral())
    moves = kernel_moves(types.group, np.zeros((1, 3), dtype=int))
    with pytest.raises(fs.RepresentationError, match="multiplies every channel by a number"):
        whole_table(types.rho, ("symmetric traceless tensor",), (), moves, 1, diagonal=True)
