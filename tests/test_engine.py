"""The engine of the FNO: blocks of rows, chunks of samples, push-forward, export, FFT fallback."""

import laws
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups
from torch import nn
from torch.nn import functional

import fieldsym as fs
from fieldsym.operators import blocks, fno, fourier
from fieldsym.operators.blocks import linear_by_blocks
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.tangents import InPlace, Tangents

D4, D2 = groups.dihedral(4), groups.dihedral(2)
FLOW = fs.Bundle(OBLONG, "scalar p + vector u")
SQUARE_FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
CASES = [
    (FLOW, D2, (5, 7), (12, 15), {}),
    (SQUARE_FLOW, D4, (5, 5), (12, 12), {"channel_mlp_skip": "linear"}),
    (SQUARE_FLOW, None, (5, 5), (13, 12), {"fno_skip": "identity", "non_linearity": torch.tanh}),
    (fs.Bundle(fs.Torus((2.0,)), "scalar p"), groups.reflections(1), (5,), (16,), {}),
    (fs.Bundle(fs.Box((2.0, 3.0), (True, False)), "scalar p + vector u"), D2, (3, 3), (8, 10),
     {"use_channel_mlp": False}),
    (fs.Bundle(fs.Torus((1.0, 2.0, 1.5)), "vector u"), groups.reflections(3), (3, 3, 3), (6, 4, 5),
     {"lifting_channel_ratio": 0}),
]  # fmt: skip


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of a single row and chunks of a single sample."""
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 1)
    monkeypatch.setitem(blocks.CHUNK_BYTES, "cpu", (1, 1))


def build(bundle, group, modes, options):
    width = 6 if group is None else 2 * group.order
    model = fs.FNO(bundle, bundle, group=group, n_modes=modes, hidden_channels=width, n_layers=2,
                   **options).double()  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # biases start at zero
    return model


def gradients(model, u):
    model.zero_grad()
    u = u.clone().requires_grad_()
    value = model(u)
    (value.square().sum() + value.sin().sum()).backward()
    return [value.detach(), u.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize(("bundle", "group", "modes", "grid", "options"), CASES)
def test_blocks_give_the_same_values_and_gradients(
    bundle, group, modes, grid, options, monkeypatch
):
    model, u = build(bundle, group, modes, options), laws.noise(bundle, grid, batch=3)
    whole = gradients(model, u)
    for size in (1, 1000):
        monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", size)
        monkeypatch.setitem(blocks.CHUNK_BYTES, "cpu", (1, 2 * size))
        for one, other in zip(gradients(model, u), whole, strict=True):
            laws.assert_close(one, other, 1e-12)
        with torch.no_grad():
            before = u.clone()
            laws.assert_close(model(u), whole[0], 1e-13)
            assert torch.equal(u, before)  # the field that was given is not written to


def forecast(monkeypatch, threshold=fourier.FFT_MODES):
    """Of an operator with three layers, in blocks of four rows of seven, nothing recorded."""
    torch.manual_seed(0)
    model = fs.FNO(FLOW, FLOW, n_modes=(3, 5), hidden_channels=5, n_layers=3).double()
    u = laws.noise(FLOW, (7, 9), batch=3)
    monkeypatch.setattr(fourier, "FFT_MODES", threshold)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 4 * 9 * 5 * 8 // torch.get_num_threads())
    monkeypatch.setitem(blocks.CHUNK_BYTES, "cpu", (1, 1))
    with torch.no_grad():
        return model(u)


@pytest.mark.parametrize("threshold", [fourier.FFT_MODES, 1], ids=["matrices", "FFT"])
def test_a_forecast_in_place_is_the_one_that_is_recorded(threshold, monkeypatch):
    unrecorded = forecast(monkeypatch, threshold)
    monkeypatch.setattr(fno, "is_unrecorded", lambda x: False)
    plain = forecast(monkeypatch, threshold)
    laws.assert_close(unrecorded, plain, 1e-14)


def kept_by_a_hook(f):
    """Whether what a hook on the nonlinearity keeps of a forecast stays as it was, call by call."""
    model, kept = build(FLOW, D2, (3, 3), {"non_linearity": lambda x: f(x)}), []
    handle = f.register_forward_hook(lambda _, __, out: kept.append((out, out.clone())))
    with torch.no_grad():
        model(laws.noise(FLOW, (6, 8), batch=2))
    handle.remove()
    assert len(kept) > 10
    return [torch.equal(now, then) for now, then in kept]


@pytest.mark.parametrize("f", [nn.GELU(), nn.ReLU(inplace=True)], ids=repr)
def test_what_a_hook_keeps_is_not_written_over(f, tiny_blocks, monkeypatch):
    assert all(kept_by_a_hook(f))
    monkeypatch.setattr(fno, "InPlace", lambda watched: InPlace())
    assert not all(kept_by_a_hook(f))  # the test can fail


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_takes_other_batches():
    model = build(FLOW, D2, (3, 3), {}).eval()
    u = laws.noise(FLOW, (6, 8), batch=9)
    with torch.no_grad():
        traced = torch.jit.trace(model, u[:3])  # sizes are tensors: 2π/n is in single precision
        laws.assert_close(traced(u), model(u), 1e-6)


def test_a_block_written_over_what_it_still_needs_is_seen(monkeypatch):
    right = forecast(monkeypatch)

    def greedy(layer, inputs, mids, tensors, transform, calculus):
        for start, m in zip(inputs, mids, strict=True):
            field = transform.synthesise(m, transform.dim - 1, 2, start)
            yield layer.points(start, field, tensors, calculus)

    monkeypatch.setattr(fno, "by_blocks", greedy)
    wrong = forecast(monkeypatch)
    assert laws.relative(wrong - right, right) > 1e-2


@pytest.mark.parametrize("group", [D4, groups.cyclic(4)], ids=repr)
def test_blocks_keep_the_symmetry(group, dtype, tiny_blocks):
    model = build(SQUARE_FLOW, group, (5, 5), {}).to(dtype)
    laws.assert_equivariant(model, group, SQUARE_FLOW, SQUARE_FLOW, (12, 12), dtype, EXACT[dtype])


def test_blocks_differentiate_twice(tiny_blocks):
    """A penalty on the slope in u: gradients through gradients."""
    model, u = build(FLOW, D2, (3, 3), {}), laws.noise(FLOW, (6, 8), batch=2)

    def penalty(model, u):
        u = u.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(u).square().sum(), u, create_graph=True)
        return slope.square().sum()

    found = torch.autograd.grad(penalty(model, u), list(model.parameters()))
    step, names = 1e-6, dict(model.named_parameters())
    direction = {n: torch.randn_like(p) for n, p in names.items()}
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for n, p in names.items():
                p.add_(direction[n], alpha=sign * step if sign == 1 else -2 * step)
        ends.append(penalty(model, u))
    slope = float(((ends[0] - ends[1]) / (2 * step)).detach())
    got = sum(float((g * d).sum()) for g, d in zip(found, direction.values(), strict=True))
    assert got == pytest.approx(slope, rel=1e-5)


def test_a_wrong_transpose_is_seen(tiny_blocks):
    """The comparison above can fail: a linear map whose transpose is another one."""
    w, x = torch.randn(3, 3), torch.randn(20, 3)
    for back, right in ((w.mT, True), (w, False)):
        leaf = x.clone().requires_grad_()
        maps = [lambda x, out, m=m: torch.matmul(x, m, out=out) for m in (w, back)]
        y = linear_by_blocks(*maps, leaf, points=3)
        assert torch.allclose(y, x @ w)
        y.square().sum().backward()
        assert torch.allclose(leaf.grad, 2 * x @ w @ w.mT, atol=1e-5) == right


def test_huge_pages_change_no_value(monkeypatch):
    """A result that is large enough to ask for them, over several blocks."""
    monkeypatch.setattr(blocks, "HUGE_BYTES", 2**16)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**12)
    asked, real = [], blocks._madvise()
    if real is None:
        pytest.skip("no such system call here")
    monkeypatch.setattr(blocks, "_madvise", lambda: lambda *a: asked.append((a, real(*a))))
    w, x = torch.randn(96, 160), torch.randn(200, 96)
    maps = [lambda x, out, m=m: torch.matmul(x, m, out=out) for m in (w, w.mT)]
    assert torch.allclose(linear_by_blocks(*maps, x, points=160), x @ w, atol=1e-5)
    (((start, length, _), _),) = asked
    assert start % 4096 == length % 4096 == 0
    assert 0 < length <= 200 * 160 * 4


# Push-forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bundle", "group", "modes", "grid", "options"), CASES)
def test_push_forward_is_the_jvp(bundle, group, modes, grid, options, monkeypatch):
    model, u = build(bundle, group, modes, options), laws.noise(bundle, grid, batch=2)
    tangents = torch.randn(3, *u.shape, dtype=u.dtype)
    for size in (2**20, 1):
        monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", size)
        with torch.no_grad():
            value, slopes = model.push_forward(u, tangents)
        laws.assert_close(value, model(u), 1e-13)
        for v, slope in zip(tangents, slopes, strict=True):
            laws.assert_close(slope, torch.func.jvp(model, (u,), (v,))[1], 1e-12)


def test_push_forward_of_a_norm_and_of_penalties(tiny_blocks):
    model = fs.FNO(FLOW, FLOW, group=D2, n_modes=3, hidden_channels=8, n_layers=1,
                   norm="instance_norm").double()  # fmt: skip
    u, v = laws.noise(FLOW, (6, 8)), laws.noise(FLOW, (6, 8))
    direct = torch.func.jvp(model, (u,), (v,))[1]
    laws.assert_close(model.push_forward(u, v[None])[1][0], direct, 1e-12)
    model = build(FLOW, D2, (3, 3), {})
    found = []
    for slope in (model.push_forward(u, v[None])[1][0], torch.func.jvp(model, (u,), (v,))[1]):
        model.zero_grad()
        slope.square().sum().backward()
        found.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None) or float(
            (one if other is None else other).norm()
        ) == 0
        if one is not None and other is not None:
            laws.assert_close(one, other, 1e-10)


class MovedBias(Tangents):
    """A calculus that adds the bias to tangents too."""

    def linear(self, x, matrix, bias):
        return functional.linear(x, matrix, bias)


def test_a_bias_on_tangents_is_seen(monkeypatch):
    model, u = build(FLOW, D2, (3, 3), {}), laws.noise(FLOW, (6, 8))
    v = torch.randn_like(u)
    monkeypatch.setattr("fieldsym.operators.fno.Tangents", MovedBias)
    with pytest.raises(AssertionError):
        laws.assert_close(
            model.push_forward(u, v[None])[1][0], torch.func.jvp(model, (u,), (v,))[1], 1e-3
        )


def test_push_forward_says_what_it_takes():
    model = build(FLOW, D2, (3, 3), {})
    u = laws.noise(FLOW, (6, 8))
    with pytest.raises(fs.BundleError, match=r"tangents \(directions, batch, channel, \*grid\) of"):
        model.push_forward(u, u)
    with pytest.raises(fs.BundleError, match=r"in torch\.float64 and .* in torch\.float32"):
        model.push_forward(u, u[None].float())


# Export, FFT --------------------------------------------------------------------------------------


LINE = fs.Bundle(fs.Torus((1.0,)), "scalar p")
NAMED = {axis: torch.export.Dim(axis, min=6, max=64) for axis in ("x", "y")}
AUTO = torch.export.Dim.AUTO  # torch cannot name the equal sides of a square


@pytest.mark.parametrize(
    ("bundle", "group", "modes", "sides", "other", "dims"),
    [
        (FLOW, D2, (3, 5), (12, 16), (9, 20), {2: NAMED["x"], 3: NAMED["y"]}),
        (LINE, groups.reflections(1), (5,), (12,), (17,), {2: NAMED["x"]}),
        (SQUARE_FLOW, D4, (5, 5), (12, 12), (16, 16), {2: AUTO, 3: AUTO}),
    ],
    ids=["oblong", "line", "square"],
)
def test_exports_with_dynamic_batch_and_grid(bundle, group, modes, sides, other, dims):
    model = fs.FNO(bundle, bundle, group=group, n_modes=modes, hidden_channels=8, n_layers=1)
    channels = bundle.channels
    batch = AUTO if AUTO in dims.values() else torch.export.Dim("batch", min=2, max=64)
    u = torch.randn(3, channels, *sides)
    program = torch.export.export(model, (u,), dynamic_shapes=({0: batch, **dims},)).module()
    for shape in ((3, channels, *sides), (5, channels, *other)):
        u = torch.randn(shape)
        assert torch.allclose(program(u), model(u), atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "modes"), [((16,), (7,)), ((9, 12), (9, 7)), ((6, 8, 7), (5, 7, 3))]
)
def test_the_fft_gives_what_the_matrices_give(grid, modes, dtype, monkeypatch):
    u = torch.randn(2, 3, *grid, dtype=dtype)
    by_matrix = TruncatedFourier(grid, modes, u)
    monkeypatch.setattr(fourier, "FFT_MODES", 1)
    by_fft = TruncatedFourier(grid, modes, u)
    assert by_fft.matrices == [None] * len(grid)
    tol = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    z = by_matrix.forward(u)
    assert (by_fft.forward(u) - z).abs().max() < tol
    laws.assert_close(by_fft.inverse(z), by_matrix.inverse(z), 100 * tol)
    layer = fs.operators.spectral.SpectralConv(
        fs.Representation("3 scalar", len(grid)), fs.Representation("2 scalar", len(grid)),
        groups.trivial(len(grid)), modes,
    ).to(dtype)  # fmt: skip
    u.requires_grad_()
    layer(u).square().sum().backward()
    slope = u.grad.clone()
    monkeypatch.undo()
    u.grad = None
    layer(u).square().sum().backward()
    laws.assert_close(slope, u.grad, 100 * tol)


def test_transforms_are_in_full_float32_whatever_else_is_allowed():
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision
    try:
        flags.fp32_precision = "tf32"
        with fourier.full_float32(torch.device("cpu")):
            assert flags.fp32_precision == "tf32"
        with fourier.full_float32(torch.device("cuda")):
            assert flags.fp32_precision == "ieee"
        assert flags.fp32_precision == "tf32"
    finally:
        flags.fp32_precision = before
