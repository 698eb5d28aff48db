"""Rotations by any angle of localised fields, by formulas that share nothing with the package.

The input is analytic and moved in closed form; the output is evaluated at the rotated points by its
own Fourier series, which is exact for what a grid holds.
"""

import itertools
import math

import laws
import torch

import fieldsym as fs


def field(bundle, grid, a=None, width=0.045, dtype=torch.float64):
    """Gaussians times polynomials, moved by the matrix a, (1, channel, *grid)."""
    u = laws.blobs(bundle, grid, a, width=width)
    u = u if a is None else laws.fibres(bundle, a, u)
    return u[None].to(dtype)


def interpolated(y, a, base):
    """y at a⁻¹x about the centre of a torus, by its Fourier series."""
    grid = y.shape[-base.dim :]
    x = base.coordinates(grid, centred=True).flatten(1)
    centre, start = torch.tensor(base.centre).view(-1, 1), torch.tensor(base.origin).view(-1, 1)
    source = torch.from_numpy(a).T @ x + centre - start
    value = torch.fft.fftn(y.double(), dim=tuple(range(-base.dim, 0)), norm="forward")
    for axis in reversed(range(base.dim)):
        n = torch.fft.fftfreq(grid[axis], 1 / grid[axis], dtype=torch.float64)
        waves = torch.exp(2j * math.pi / base.lengths[axis] * torch.outer(n, source[axis]))
        value = value @ waves if axis == base.dim - 1 else (value * waves).sum(-2)
    return value.real.unflatten(-1, grid)


def turn(y, a, bundle):
    """g·y of a batch of sections: at the rotated points, in the rotated frame."""
    moved = interpolated(y, a, bundle.base)
    return torch.stack([laws.fibres(bundle, a, section) for section in moved])


def turning_error(operator, a, in_bundle, out_bundle, grid, width=0.045):
    """‖F(g·u) − g·F(u)‖ / ‖F(u) − mean‖ inside the disk of a localised field."""
    base = in_bundle.base
    with torch.no_grad():
        moved = operator(field(in_bundle, grid, a, width))
        value = operator(field(in_bundle, grid, None, width))
    want = turn(value, a, out_bundle)
    spread = turn(value - value.mean(tuple(range(-base.dim, 0)), keepdim=True), a, out_bundle)
    inside = base.disk(0.499 * min(base.lengths)).mask(grid)
    return float(((moved - want) * inside).norm() / (spread * inside).norm())


def rotation(*angles):
    """A rotation matrix of the plane (one angle) or of space (three)."""
    return fs.groups.so(2 if len(angles) == 1 else 3).exp(angles).matrix


def spectrum_points(conv, count=None):
    """Physical wavevectors of the modes inside the box of kept modes, (points, dim)."""
    cuts = [range(-(n // 2), n // 2 + 1) for n in conv.n_modes]
    modes = torch.tensor(list(itertools.product(*cuts)), dtype=torch.float64)[:count]
    return 2 * math.pi * modes / torch.tensor(conv.lengths, dtype=torch.float64)


def fit(conv, symbol):
    """Set the weights for the multiplier nearest to a symbol; return the relative distance."""
    k = spectrum_points(conv)
    k = k[k.norm(dim=1) <= conv.cutoff * (1 + 1e-9)]
    columns = []
    with torch.no_grad():
        for p in conv.parameters():
            p.zero_()
        for p in conv.parameters():
            for i in range(p.numel()):
                p.view(-1)[i] = 1
                columns.append(conv.multiplier(k).flatten())
                p.view(-1)[i] = 0
        design, want = torch.stack(columns, 1), symbol(k).to(torch.complex128).flatten()
        both = torch.cat([design.real, design.imag]), torch.cat([want.real, want.imag])
        weights = torch.linalg.lstsq(*both, driver="gelsd").solution
        start = 0
        for p in conv.parameters():
            p.copy_(weights[start : start + p.numel()].view(p.shape))
            start += p.numel()
        return laws.relative(both[0] @ weights - both[1], both[1])
