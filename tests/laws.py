"""The laws, as assertions about an implementation that is handed in: broken ones must fail them.

An action has the signature ``act(g, u, bundle)``, its generator ``infinitesimal(xi, u, bundle)``, a
layer maps (batch, channel, *grid) and holds its types, an operator maps sections to sections.
"""

import itertools
import math

import numpy as np
import torch

import fieldsym as fs
from fieldsym.lattice_velocities import VELOCITY_SETS
from fieldsym.operators.modes import RealForm


def noise(bundle, grid, dtype=torch.float64, batch=2):
    """White noise up to and including the Nyquist modes: nothing can hide."""
    return torch.randn(batch, bundle.channels, *grid, dtype=dtype)


def relative(error, value):
    """Norm of an error relative to the norm of a value."""
    return float(error.detach().double().norm() / value.detach().double().norm())


def assert_close(got, want, tol):
    """Relative error in norm; NaN fails."""
    assert got.shape == want.shape
    error = relative(got - want, want)
    assert error <= tol, f"relative error {error:.2e} exceeds {tol:.1e}"


# Groups and representations -----------------------------------------------------------------------


def assert_axioms(elements, multiply=lambda g, h: g @ h, invert=lambda g: g.inverse):
    """Closure, identity first, inverses, associativity by triples."""
    keys = [g.key for g in elements]
    assert len(set(keys)) == len(keys)
    assert np.array_equal(elements[0].matrix, np.eye(elements[0].dim))
    for g in elements:
        assert multiply(g, invert(g)).key == keys[0]
        for h in elements:
            assert multiply(g, h).key in keys
    for a, b, c in itertools.islice(itertools.product(elements, repeat=3), 200):
        assert multiply(multiply(a, b), c).key == multiply(a, multiply(b, c)).key


def assert_homomorphism(rho, elements, tol=1e-12):
    """ρ(g h) = ρ(g) ρ(h) and ρ(identity) = 1."""
    for g, h in itertools.product(elements, repeat=2):
        assert (rho(g @ h) - rho(g) @ rho(h)).abs().max() <= tol
    one = rho(elements[0] @ elements[0].inverse)
    assert (one - torch.eye(len(one), dtype=one.dtype)).abs().max() <= tol


def assert_derivative(rho, drho, group, tol=1e-9):
    """dρ(ξ) is the derivative of ρ(exp tξ) at zero, by a difference of fourth order."""
    for xi in group.generators:
        t = 1e-3
        p1, m1, p2, m2 = (rho(flow(group, xi, s)) for s in (t, -t, 2 * t, -2 * t))
        slope = (8 * (p1 - m1) - (p2 - m2)) / (12 * t)
        assert (slope - drho(xi)).abs().max() <= tol


def assert_bracket_of_fibres(drho, group, tol=1e-12):
    """dρ([ξ, η]) = dρ(ξ) dρ(η) − dρ(η) dρ(ξ)."""
    for xi, eta in itertools.product(group.generators, repeat=2):
        commutator = drho(xi) @ drho(eta) - drho(eta) @ drho(xi)
        assert (commutator - drho(group.bracket(xi, eta))).abs().max() <= tol


def flow(group, xi, t):
    """exp(tξ)."""
    return group.exp(fs.Generator(xi.name, t * xi.matrix, t * xi.shift))


# Actions on sections ------------------------------------------------------------------------------


def assert_action(act, elements, bundle, grid, dtype=torch.float64, tol=0.0):
    """g·(h·u) = (g h)·u and identity·u = u."""
    u = noise(bundle, grid, dtype)
    for g, h in itertools.product(elements, repeat=2):
        assert_close(act(g, act(h, u, bundle), bundle), act(g @ h, u, bundle), tol)
    assert_close(act(elements[0] @ elements[0].inverse, u, bundle), u, tol)


def fibre(kind, a, v):
    """A field of one kind, moved by the textbook formula: v (component, *grid)."""
    sign = float(np.sign(np.linalg.det(a)))
    turn = torch.from_numpy(np.array(a))
    d = len(a)
    if kind in ("scalar", "pseudoscalar"):
        return v * (sign if kind == "pseudoscalar" else 1.0)
    if "vector" in kind:
        return torch.einsum("ij,j...->i...", turn, v) * (sign if kind == "axial vector" else 1.0)
    if kind.endswith("populations"):
        c = VELOCITY_SETS[kind].velocities.tolist()
        return torch.stack([v[c.index(np.rint(np.linalg.inv(a) @ one).tolist())] for one in c])
    full = full_tensor(v, d, traceless="traceless" in kind)
    full = torch.einsum("ij,kl,jl...->ik...", turn, turn, full)
    pairs = [(i, i) for i in range(d - ("traceless" in kind))]
    return torch.stack([full[p] for p in [*pairs, *itertools.combinations(range(d), 2)]])


def full_tensor(v, d, *, traceless):
    """Stored components to the (d, d, *grid) matrix."""
    stored = list(v)
    diagonal = [stored.pop(0) for _ in range(d - traceless)]
    if traceless:
        diagonal.append(-sum(diagonal))
    full = torch.zeros(d, d, *v.shape[1:], dtype=v.dtype)
    for i, part in enumerate(diagonal):
        full[i, i] = part
    for (i, j), part in zip(itertools.combinations(range(d), 2), stored, strict=True):
        full[i, j] = full[j, i] = part
    return full


def fibres(bundle, a, u):
    """Every block of a section (channel, *grid), moved by its textbook formula."""
    parts = []
    for name, block in zip(bundle.names, bundle.blocks, strict=True):
        for copy in u[bundle.slices[name]].chunk(block.copies):
            parts.append(fibre(block.kind, a, copy))
    return torch.cat(parts)


def assert_index_formula(act, elements, bundle, grid):
    """(g·u)(x) = ρ(g) u(g⁻¹x), sample by sample and to the last bit, from the coordinates alone."""
    base, u = bundle.base, noise(bundle, grid)[0]
    x = base.coordinates(grid, centred=True)
    first = base.coordinates(grid, centred=True).flatten(1)[:, 0]
    h = torch.tensor(base.spacing(grid), dtype=torch.float64)
    sizes = torch.tensor(grid)
    for g in elements:
        back = g.inverse
        shift = torch.from_numpy(back.shift)
        source = torch.einsum("ij,j...->i...", torch.from_numpy(back.matrix), x)
        steps = (source.flatten(1) + shift[:, None] - first[:, None]) / h[:, None]
        index = steps.round().long()
        assert (steps - index).abs().max() < 1e-9
        wraps = torch.tensor(base.periodic)[:, None]
        index = torch.where(wraps, index % sizes[:, None], index)
        moved = fibres(bundle, g.matrix, u[(slice(None), *index)].view(u.shape))
        got = act(g, u, bundle)
        assert (got - moved).abs().max() <= 1e-14 * moved.abs().max(), g.name


def assert_shifts(shift, bundle, grid, dtype, tol):
    """T(a) T(b) = T(a + b), T(−a) T(a) = 1 on what is kept, and T agrees with roll there."""
    base = bundle.base
    u = without_nyquist(noise(bundle, grid, dtype), base.dim)
    a, b = np.array([0.3, -0.47, 0.11][: base.dim]), np.array([0.05, 0.81, -0.2][: base.dim])
    both, either = shift(a, shift(b, u, bundle), bundle), shift(a + b, u, bundle)
    assert_close(both, either, tol)
    assert_close(shift(-a, shift(a, u, bundle), bundle), u, tol)
    cells = np.array(base.spacing(grid)) * [3, -2, 1][: base.dim]
    rolled = u.roll([3, -2, 1][: base.dim], list(range(-base.dim, 0)))
    assert_close(shift(cells, u, bundle), rolled, tol)
    near = shift(cells * (1 + 1e-6), u, bundle)  # too far from whole cells for an index map
    assert_close(near, rolled, 1e-3)


def assert_rough_shifts(shift, bundle, grid, dtype, tol):
    """T(a) T(b) = T(a + b) on white noise, where every axis is moved by fractions of a cell."""
    u = noise(bundle, grid, dtype)
    h = np.array(bundle.base.spacing(grid))
    a, b = 0.37 * h, 1.21 * h
    assert_close(shift(a, shift(b, u, bundle), bundle), shift(a + b, u, bundle), tol)


def assert_shifts_turn(act, group, bundle, grid, dtype, tol):
    """g T(a) = T(g a) g on white noise."""
    u = noise(bundle, grid, dtype)
    h = np.array(bundle.base.spacing(grid))
    a = fs.Element(np.eye(bundle.base.dim), h * [0.37, 1.21, -0.6][: bundle.base.dim])
    for g in group.elements:
        turned = fs.Element(a.matrix, g.matrix @ a.shift)
        one = act(g, act(a, u, bundle), bundle)
        assert_close(one, act(turned, act(g, u, bundle), bundle), tol)


def without_nyquist(u, dim):
    """Project the Nyquist modes of every even axis out."""
    for axis in range(-dim, 0):
        n = u.shape[axis]
        if n % 2 == 0:
            sign = torch.ones(n, dtype=u.dtype)
            sign[1::2] = -1
            sign = sign.view(-1, *[1] * (-axis - 1))
            u = u - sign * (u * sign).mean(axis, keepdim=True)
    return u


def assert_gradient_covariant(act, group, base, grid, tol, gradient=None):
    """g·(∇p) = ∇(g·p): the gradient of a scalar is a vector, for scalar to vector paths."""
    p, v = fs.Bundle(base, "scalar p"), fs.Bundle(base, "vector u")
    gradient = gradient or base.gradient
    u = noise(p, grid, batch=1)
    for g in group.elements:
        assert_close(act(g, gradient(u)[:, 0], v), gradient(act(g, u, p))[:, 0], tol)


def assert_curl_covariant(act, group, base, grid, tol):
    """g·(curl v) = curl(g·v): the curl of a plane vector is a pseudoscalar."""
    w, v = fs.Bundle(base, "pseudoscalar w"), fs.Bundle(base, "vector u")

    def curl(u):
        d = base.gradient(u)
        return d[:, 1:2, 0] - d[:, 0:1, 1]

    u = noise(v, grid, batch=1)
    for g in group.elements:
        assert_close(act(g, curl(u), w), curl(act(g, u, v)), tol)


def blobs(bundle, grid, a=None, *, width=0.07, dtype=torch.float64):
    """Localised analytic fields, evaluated at a⁻¹x: sums of Gaussians times polynomials.

    A different one in every channel, none of them symmetric; width in units of the shortest side.
    """
    base = bundle.base
    x = base.coordinates(grid, centred=True) / min(base.lengths)
    if a is not None:
        x = torch.einsum("ij,j...->i...", torch.from_numpy(np.linalg.inv(a)), x)
    return torch.stack([_blob(x, c, width) for c in range(bundle.channels)]).to(dtype)


def _blob(x, channel, width):
    total = torch.zeros_like(x[0])
    for n in (1, 2):
        centre = 0.06 * torch.tensor([math.sin(3.0 * n + 1.3 * channel + i) for i in range(len(x))])
        y = (x - centre.to(x.dtype).view(-1, *[1] * (x.ndim - 1))) / width
        tilt = y[0] * math.cos(n + channel) + y[-1] * math.sin(2.0 * n + channel)
        total = total + (1.0 + 0.5 * tilt) * torch.exp(-y.square().sum(0) / 2) * (-1) ** n * n
    return total


def assert_moves_analytic(act, g, bundle, grid, tol, dtype=torch.float64, width=0.07):
    """g·u against the analytic field, moved by the textbook formula at every sample."""
    u = blobs(bundle, grid, dtype=dtype, width=width)
    want = fibres(bundle, g.matrix, blobs(bundle, grid, g.matrix, width=width))
    assert_close(act(g, u, bundle).double(), want, tol)


def assert_composes(act, g, h, bundle, grid, tol, width=0.07):
    """R(a) R(b) = R(a b) for rotations by generic angles of a localised field."""
    u = blobs(bundle, grid, width=width)
    assert_close(act(g, act(h, u, bundle), bundle), act(g @ h, u, bundle), tol)


def assert_generates(act, infinitesimal, group, bundle, grid, tol=1e-8, width=0.07):
    """d/dt exp(tξ)·u at zero is ξ·u, by a difference of fourth order."""
    u = blobs(bundle, grid, width=width)
    for xi in group.generators:
        t = 2e-4 * (min(bundle.base.lengths) if xi.shift.any() else 1.0)
        p1, m1, p2, m2 = (act(flow(group, xi, s), u, bundle) for s in (t, -t, 2 * t, -2 * t))
        slope = (8 * (p1 - m1) - (p2 - m2)) / (12 * t)
        assert_close(infinitesimal(xi, u, bundle), slope, tol)


def assert_brackets(infinitesimal, generators, bundle, grid, tol=1e-9, width=0.07):
    """ξ·(η·u) − η·(ξ·u) = [ξ, η]·u on localised fields."""
    u = blobs(bundle, grid, width=width)
    for xi, eta in itertools.permutations(generators, 2):
        one = infinitesimal(xi, infinitesimal(eta, u, bundle), bundle)
        other = infinitesimal(eta, infinitesimal(xi, u, bundle), bundle)
        bracket = infinitesimal(fs.Group.bracket(xi, eta), u, bundle)
        error = (one - other - bracket).norm() / one.norm()
        assert error <= tol, f"[{xi.name}, {eta.name}]: {error:.2e}"


# Layers and operators -----------------------------------------------------------------------------


def assert_equivariant(operator, group, in_bundle, out_bundle, grid, dtype, tol):
    """F(g·u) = g·F(u) for every element, relative to the norm of F(u), on white noise."""
    u = noise(in_bundle, grid, dtype)
    with torch.no_grad():
        value = operator(u)
        for g in group.elements:
            moved = operator(fs.act(g, u, in_bundle))
            error = relative(moved - fs.act(g, value, out_bundle), value)
            assert error <= tol, f"{g.name}: relative error {error:.2e} exceeds {tol:.1e}"


def assert_translates(operator, in_bundle, grid, dtype, tol):
    """F commutes with translations by whole cells along every periodic axis."""
    base, u = in_bundle.base, noise(in_bundle, grid, dtype)
    with torch.no_grad():
        value = operator(u)
        for axis in (i - base.dim for i, wraps in enumerate(base.periodic) if wraps):
            error = relative(operator(u.roll(3, axis)) - value.roll(3, axis), value)
            assert error <= tol, f"axis {axis}: relative error {error:.2e} exceeds {tol:.1e}"


def modes_of(n_modes):
    return list(itertools.product(*(range(-(n // 2), n // 2 + 1) for n in n_modes)))


def expected_dimension(group, n_modes, rep_in, rep_out):
    """(1/|G|) Σ_g #Fix(g on the modes) χ_out(g) χ_in(g)."""
    modes = np.array(modes_of(n_modes))
    total = 0.0
    for g in group.elements:
        fixed = (modes @ g.matrix.T == modes).all(1).sum()
        total += fixed * float(rep_out.rho(g).trace() * rep_in.rho(g).trace())
    return total / group.order


def assert_dimension(layer, group):
    """The free parameters of a spectral layer are as many as the character formula says."""
    want = expected_dimension(group, layer.n_modes, layer.rep_in, layer.rep_out)
    assert layer.free_dimension == round(want)
    assert abs(want - round(want)) < 1e-9


def dense_multiplier(layer, group):
    """R(k) of every mode, complex, built from the stored matrices by R(gk) = ρ R(k) ρ⁻¹.

    Whatever element leads to a mode must give the same matrix, and R(−k) = conj R(k).
    """
    form = RealForm(group)
    into, out = (_complex_form(form, rep) for rep in (layer.rep_in, layer.rep_out))
    found = {}
    for weight, orbit_type in zip(layer.weights, layer.types, strict=True):
        stored = weight().detach().double()
        for matrix, modes in zip(stored, orbit_type.modes, strict=True):
            w = torch.complex(matrix[0], matrix[1] if len(matrix) == 2 else 0 * matrix[0])
            first = out @ w @ torch.linalg.inv(into)
            for g in group.elements:
                rho_out = layer.rep_out.rho(g).to(first.dtype)
                rho_in = layer.rep_in.rho(g.inverse).to(first.dtype)
                value = rho_out @ first @ rho_in
                k = tuple(int(c) for c in np.rint(g.matrix @ modes[0]))
                for mode, r in ((k, value), (tuple(-c for c in k), value.conj())):
                    known = found.setdefault(mode, r)
                    assert (known - r).abs().max() <= 1e-6 * (1e-9 + r.abs().max())
    return found


def _complex_form(form, rep):
    """T D of a whole representation."""
    parts = []
    for block in rep.blocks:
        basis, phases = form.basis(rep, block.kind)
        parts.extend([torch.from_numpy(basis * phases[None, :] + 0j)] * block.copies)
    return torch.block_diag(*parts)[:, torch.from_numpy(form.order(rep))]


def dense_convolution(multiplier, u, dim, rows):
    """The full complex multiplier by fftn, float64: no half spectrum, no orbits."""
    axes = tuple(range(-dim, 0))
    spectrum = torch.fft.fftn(u.double(), dim=axes)
    mixed = torch.zeros(u.shape[0], rows, *u.shape[2:], dtype=torch.complex128)
    for k, r in multiplier.items():
        index = tuple(c % n for c, n in zip(k, u.shape[-dim:], strict=True))
        mixed[(slice(None), slice(None), *index)] = torch.einsum(
            "oi,bi->bo", r, spectrum[(slice(None), slice(None), *index)]
        )
    y = torch.fft.ifftn(mixed, dim=axes)
    assert y.imag.abs().max() <= 1e-10 * (1e-30 + y.real.abs().max())
    return y.real


def assert_dense(layer, group, grid, dtype, tol):
    """A spectral layer gives the values of its dense multiplier, on every kept mode and no other.

    Also, read from its response to impulses: R(−k) = conj R(k), and the kept modes are −K..K.
    """
    layer = layer.to(dtype)
    dim = len(grid)
    multiplier = dense_multiplier(layer, group)
    assert sorted(multiplier) == modes_of(layer.n_modes)
    u = torch.randn(2, layer.rep_in.channels, *grid, dtype=dtype)
    with torch.no_grad():
        assert_close(
            layer(u).double(), dense_convolution(multiplier, u, dim, layer.rep_out.channels), tol
        )
        impulses = torch.zeros(layer.rep_in.channels, layer.rep_in.channels, *grid, dtype=dtype)
        impulses[(range(len(impulses)), range(len(impulses)), *[0] * dim)] = 1
        response = torch.fft.fftn(layer(impulses).double(), dim=tuple(range(-dim, 0)))
    size = max(float(r.abs().max()) for r in multiplier.values())
    for k, r in multiplier.items():
        index = tuple(c % n for c, n in zip(k, grid, strict=True))
        assert (response[(slice(None), slice(None), *index)].mT - r).abs().max() <= 10 * tol * size
        response[(slice(None), slice(None), *index)] = 0
    assert response.abs().max() <= 10 * tol * size


def assert_same_at_any_resolution(layer, bundle, coarse, factor, tol):
    """A band-limited field sampled on a finer grid gives the same values on shared points."""
    fine = tuple(n * factor for n in coarse)
    low, high = (
        fs.testing.random_section(bundle, grid, kmax=2, batch=2) for grid in (coarse, fine)
    )
    with torch.no_grad():
        shared = layer(high)[(..., *(slice(None, None, factor) for _ in coarse))]
        assert_close(shared, layer(low), tol)


def assert_all_learn(model, u):
    """Every parameter gets a gradient that is not zero."""
    model.zero_grad()
    y = model(u)
    (y * torch.randn_like(y)).sum().backward()
    scale = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    asleep = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not float(p.grad.abs().max()) > 1e-9 * scale
    ]
    assert not asleep, f"no gradient: {asleep}"


# Lie derivatives ----------------------------------------------------------------------------------


def convolution(symbol, base, grid):
    """The operator u ↦ R * u with an analytic multiplier, (*batch, channel, *grid) in float64.

    ``symbol`` maps wavenumbers (points, dim) to (points, out, in); Nyquist modes are dropped.
    """
    axes = tuple(range(-base.dim, 0))
    k, keep = wavenumbers(base, grid)
    r = symbol(k) * keep[:, None, None]

    def apply(u):
        spectrum = torch.fft.fftn(u, dim=axes).flatten(-base.dim)
        mixed = torch.einsum("koi,...ik->...ok", r, spectrum)
        return torch.fft.ifftn(mixed.unflatten(-1, grid), dim=axes).real

    return apply


def wavenumbers(base, grid):
    """All wavenumbers (points, dim), and which are no Nyquist modes."""
    freq = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in grid]
    keep = [2 * f.abs() < n for f, n in zip(freq, grid, strict=True)]
    k = [2 * math.pi * f / length for f, length in zip(freq, base.lengths, strict=True)]
    points = torch.stack([m.flatten() for m in torch.meshgrid(*k, indexing="ij")], -1)
    inside = torch.stack([m.flatten() for m in torch.meshgrid(*keep, indexing="ij")]).all(0)
    return points, inside


def lie_of_symbol(symbol, xi, drho_in, drho_out):
    """(L_ξ R)(k) = R dρ_in − dρ_out R − (ξᵀk)·∇_k R, the last term by forward differentiation."""
    a = torch.from_numpy(xi.matrix)

    def derived(k):
        value, slope = torch.func.jvp(lambda q: _pairs(symbol(q)), (k,), (k @ a,))
        slope, r = torch.view_as_complex(slope), torch.view_as_complex(value)
        return r @ drho_in.to(r.dtype) - drho_out.to(r.dtype) @ r - slope

    return derived


def _pairs(z):
    return torch.view_as_real(z).contiguous()


def assert_commutator(symbol, xi, in_bundle, out_bundle, grid, tol, formula=lie_of_symbol):
    """The Lie derivative of a convolution is the convolution with the Lie derivative of R."""
    base = in_bundle.base
    drho = (in_bundle.representation.drho(xi), out_bundle.representation.drho(xi))
    u = blobs(in_bundle, grid, width=0.05)
    operator = convolution(symbol, base, grid)
    got = fs.lie_derivative(operator, xi, u, in_bundle, out_bundle)
    want = convolution(formula(symbol, xi, *drho), base, grid)(u)
    assert_close(got, want, tol)


def assert_chain_rule(first, second, xi, u, bundles, tol, lie_derivative=fs.lie_derivative):
    """L(N2∘N1)(u) = (L N2)(N1 u) + DN2(N1 u)[L N1(u)]."""
    a, b, c = bundles
    whole = lie_derivative(lambda v: second(first(v)), xi, u, a, c)
    middle = first(u)
    _, pushed = torch.func.jvp(second, (middle,), (lie_derivative(first, xi, u, a, b),))
    error = lie_derivative(second, xi, middle, b, c) + pushed - whole
    size = fs.act_infinitesimal(xi, second(middle), c)  # L itself may be small
    assert relative(error, size) <= tol, f"relative error {relative(error, size):.2e}"


def assert_jvp(operator, xi, u, in_bundle, out_bundle, tol, lie_derivative=fs.lie_derivative):
    """The Lie derivative against central differences along ξ·u."""
    v = fs.act_infinitesimal(xi, u, in_bundle)
    t = 1e-4 * float(u.norm() / v.norm())
    slope = (operator(u + t * v) - operator(u - t * v)) / (2 * t)
    want = slope - fs.act_infinitesimal(xi, operator(u), out_bundle)
    assert_close(lie_derivative(operator, xi, u, in_bundle, out_bundle), want, tol)


def assert_no_units(defect, operator, g, u, in_bundle, out_bundle):
    """A relative defect does not see the units of the output, an offset, or the batch."""
    want = defect(operator, g, u, in_bundle, out_bundle)
    assert_close(defect(lambda v: 1e3 * operator(v), g, u, in_bundle, out_bundle), want, 1e-9)
    offset = defect(lambda v: operator(v) + 5.0, g, u, in_bundle, out_bundle)
    assert_close(offset, want, 1e-9)
    each = [defect(operator, g, one[None], in_bundle, out_bundle) for one in u]
    assert_close(torch.cat(each), want, 1e-9)
