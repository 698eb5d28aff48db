"""Saboteurs: implementations with one mistake each. Every law has one that must fail it."""

import copy
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import nn

import fieldsym as fs
from fieldsym.lattice_velocities import velocity_set
from fieldsym.operators import spectral
from fieldsym.operators.layers import TypedMLP

# Actions ------------------------------------------------------------------------------------------


def _points(g, u, bundle):
    """Move the samples, leave the fibres."""
    return fs.act(g, u, fs.Bundle(bundle.base, f"{bundle.channels} scalar"))


def _fibre(matrix, u, bundle):
    return torch.einsum("ij,...jn->...in", matrix.to(u), u.flatten(-bundle.base.dim)).view(u.shape)


def act_with_inverse_fibre(g, u, bundle):
    """Transposed rotation: ρ(g)⁻¹ u(g⁻¹x)."""
    return _fibre(bundle.representation.rho(g.inverse), _points(g, u, bundle), bundle)


def act_with_inverse_points(g, u, bundle):
    """ρ(g) u(gx): swapped axes of a quarter turn."""
    return _fibre(bundle.representation.rho(g), _points(g.inverse, u, bundle), bundle)


def act_on_components(g, u, bundle):
    """Components moved like scalars: not mixed."""
    return _points(g, u, bundle)


def act_without_parity(g, u, bundle):
    """Pseudoscalars treated as scalars, axial vectors as vectors."""
    text = str(bundle.representation).replace("pseudoscalar", "scalar").replace("axial ", "")
    return fs.act(g, u, fs.Bundle(bundle.base, text))


def act_about_wrong_centre(g, u, bundle):
    """The array maps rot90 and flip on samples at nodes: half a cell off the centre."""
    base = fs.Torus(bundle.base.lengths, location="cell")
    return fs.act(g, u, fs.Bundle(base, bundle.representation))


def shift_with_nyquist(a, u, bundle):
    """Fourier phases on every mode of the half spectrum, Nyquist modes included."""
    dim, grid = bundle.base.dim, bundle.grid(u)
    axes = tuple(range(-dim, 0))
    phase = torch.ones((), dtype=torch.complex128)
    for i, (n, length) in enumerate(zip(grid, bundle.base.lengths, strict=True)):
        k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)[: n // 2 + 1 if i == dim - 1 else n]
        angle = -2 * torch.pi * float(a[i]) / length * k
        phase = phase[..., None] * torch.polar(torch.ones_like(angle), angle)
    return torch.fft.irfftn(torch.fft.rfftn(u, dim=axes) * phase, s=grid, dim=axes).to(u.dtype)


def gradient_with_nyquist(base):
    """i k on every mode of the half spectrum."""

    def gradient(u):
        grid = u.shape[-base.dim :]
        axes = tuple(range(-base.dim, 0))
        spectrum, parts = torch.fft.rfftn(u, dim=axes), []
        for i, (n, length) in enumerate(zip(grid, base.lengths, strict=True)):
            k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
            k = k[: n // 2 + 1] if i == base.dim - 1 else k
            k = 2 * torch.pi / length * k.view(-1, *[1] * (base.dim - 1 - i))
            parts.append(torch.fft.irfftn(1j * k * spectrum, s=grid, dim=axes))
        return torch.stack(parts, -base.dim - 1)

    return gradient


def infinitesimal_with_wrong_sign(xi, u, bundle):
    """−dρ(ξ) u − X·∇u."""
    fibre = _fibre(bundle.representation.drho(xi), u, bundle)
    return fs.act_infinitesimal(xi, u, bundle) - 2 * fibre


def infinitesimal_without_fibre(xi, u, bundle):
    """−X·∇u."""
    return fs.act_infinitesimal(xi, u, fs.Bundle(bundle.base, f"{bundle.channels} scalar"))


def infinitesimal_with_right_action(xi, u, bundle):
    """dρ(ξ) u + X·∇u."""
    fibre = _fibre(bundle.representation.drho(xi), u, bundle)
    return 2 * fibre - fs.act_infinitesimal(xi, u, bundle)


# Spectral layers ----------------------------------------------------------------------------------


def _with_types(change, *args):
    """A spectral layer built on orbit types that something is wrong with."""

    def types(group, n_modes):
        return tuple(
            replace(t, **change(t)) for t in fs.operators.modes.mode_orbits(group, n_modes)
        )

    with patch.object(spectral, "mode_orbits", types):
        return spectral.SpectralConv(*args)


def conv_without_stabilisers(*args):
    """One free matrix per orbit, the constraint of its stabiliser forgotten."""
    return _with_types(lambda t: {"stabiliser": ()}, *args)


def conv_without_conjugation(*args):
    """R(−gk) = ρ R(k) ρ⁻¹ without the complex conjugation."""
    layer = spectral.SpectralConv(*args)
    layer.signs_in = layer.signs_out = None
    return layer


class ConvWithoutPartners(nn.Module):
    """The modes −k dropped: half the amplitude of every mode but the mean."""

    def __init__(self, *args):
        super().__init__()
        self.layer = spectral.SpectralConv(*args)
        for name in ("weights", "types", "rep_in", "rep_out", "n_modes"):
            setattr(self, name, getattr(self.layer, name))

    def forward(self, u):
        y = self.layer(u)
        mean = y.mean(tuple(range(2, y.ndim)), keepdim=True)
        return mean + (y - mean) / 2


class EvenModes(nn.Module):
    """Keeps −K..K−1 along the first axis."""

    def __init__(self, *args):
        super().__init__()
        self.layer = spectral.SpectralConv(*args)

    def forward(self, u):
        y = self.layer(u)
        axes = tuple(range(2, y.ndim))
        spectrum = torch.fft.rfftn(y, dim=axes)
        spectrum[:, :, self.layer.n_modes[0] // 2] = 0
        return torch.fft.irfftn(spectrum, s=y.shape[2:], dim=axes)


class UnnormalisedModes(nn.Module):
    """A transform whose size depends on the number of samples."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, u):
        return self.layer(u) * u.shape[-1] / 16


# Operators ----------------------------------------------------------------------------------------


class PerChannelNorm(nn.Module):
    """Instance norm with one scale per channel, as of any image network."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(1 + torch.rand(channels))

    def forward(self, x):
        seen = tuple(range(1, x.ndim - 1))  # channels last
        variance, mean = torch.var_mean(x, seen, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.scale.to(x.dtype)


def fno_with_per_channel_norm(in_bundle, out_bundle, **options):
    model = fs.FNO(in_bundle, out_bundle, norm="instance_norm", **options)
    for layer in model.layers:
        layer.norm = PerChannelNorm(options["hidden_channels"])
    return model


def fno_without_parity(in_bundle, out_bundle, **options):
    """Built for scalars where the fields are pseudoscalars."""
    plain = [
        fs.Bundle(b.base, str(b.representation).replace("pseudoscalar", "scalar"), options["group"])
        for b in (in_bundle, out_bundle)
    ]
    return fs.FNO(*plain, **options)


def fno_on_components(in_bundle, out_bundle, **options):
    """Every component a scalar of its own."""
    plain = [fs.Bundle(b.base, f"{b.channels} scalar") for b in (in_bundle, out_bundle)]
    return fs.FNO(*plain, **options)


class GridEmbedding(nn.Module):
    """Adds a coordinate to the input, as neuraloperator does by default."""

    def __init__(self, operator, bundle):
        super().__init__()
        self.operator, self.bundle = operator, bundle

    def forward(self, u):
        x = self.bundle.base.coordinates(self.bundle.grid(u), u.dtype)[0]
        return self.operator(u + x)


def fno_with_sleeping_bias(in_bundle, out_bundle, **options):
    """A constant per field in front of an instance norm: it can never matter."""
    model = fs.FNO(in_bundle, out_bundle, norm="instance_norm", **options)
    hidden = model._regular(1.0)
    for layer in model.layers:
        layer.mlp = TypedMLP(hidden, hidden, hidden, model.group, model.non_linearity)
    return model


# Lattice Boltzmann --------------------------------------------------------------------------------


def collision_without_conservation(bundle, **options):
    """A learned collision whose change is not projected."""
    model = fs.LatticeCollision(bundle, **options)
    model._project = lambda change: change
    return model


def collision_that_keeps_the_density_alone(bundle, **options):
    """A learned collision that forgot the rows of the momentum."""
    model = fs.LatticeCollision(bundle, **options)
    model.conserved = model.conserved[:1]
    return model


def stream_along_swapped_axes(f, bundle):
    """Each population moves along (c_y, c_x)."""
    axes = tuple(range(-bundle.base.dim, 0))
    velocities = velocity_set(bundle).velocities[:, ::-1].tolist()
    parts = f.unbind(-bundle.base.dim - 1)
    moved = [p.roll(c, axes) for p, c in zip(parts, velocities, strict=True)]
    return torch.stack(moved, -bundle.base.dim - 1)


def equilibrium_without_energy(bundle, density, velocity):
    """w_i ρ (1 + 3 c·u + 9/2 (c·u)²)."""
    whole = fs.simulate.lattice_equilibrium(bundle, density, velocity)
    still = fs.simulate.lattice_equilibrium(bundle, density, 0 * velocity)
    return whole + still * 1.5 * velocity.square().sum(-bundle.base.dim - 1, keepdim=True)


# Lie derivatives ----------------------------------------------------------------------------------


def lie_derivative_without_output(F, xi, u, in_bundle, out_bundle):
    """DF(u)[ξ·u] alone."""
    return torch.func.jvp(F, (u,), (fs.act_infinitesimal(xi, u, in_bundle),))[1]


def lie_of_symbol_with_wrong_sign(symbol, xi, drho_in, drho_out):
    """−R dρ_in + dρ_out R − (ξᵀk)·∇_k R."""
    from laws import lie_of_symbol

    return lie_of_symbol(symbol, xi, -drho_in, -drho_out)


def defect_with_mean(F, g, u, in_bundle, out_bundle):
    """The usual ratio, the mean of the output left in."""
    value = fs.act(g, F(u), out_bundle)
    error = F(fs.act(g, u, in_bundle)) - value
    return error.flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)


def without(module, name):
    """A copy of a module that forgot an attribute."""
    broken = copy.deepcopy(module)
    delattr(broken, name)
    return broken


# Penalties ----------------------------------------------------------------------------------------


def relative_to_all_weights(self):
    """``WeightGram.by_layer`` with one size for all layers."""
    gram, differences, size = self()
    return gram[None] / size**2, differences[None] / size
