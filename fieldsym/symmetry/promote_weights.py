"""How far the weights of a module are from commuting with candidate symmetries.

A linear layer commutes with exp(tξ) iff L_ξ W = 0, which is linear in W and needs no data. The
layers' columns L_ξ W are concatenated, so their Gram matrices add up,

    G_ij = Σ over layers, sites  μ Re tr[(L_i W) S (L_j W)*],

μ = 2 for one of k and −k. Its small eigenvalues are directions of the algebra that all layers keep
together; a sum of norms per layer would let each keep another. S is one, or the measured spectrum
of the layer's input: then G_ii is the mean square of L_i W u. Kernels are multipliers of all waves
of a grid. Elements g of the finite part give ‖K_g W − W‖, not squared, over all layers.

>>> import fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
>>> model = fs.FNO(flow, flow, n_modes=(5, 5), hidden_channels=8, n_layers=1,
...                positional_embedding="grid")
>>> weights = WeightGram(model, fs.groups.translations(2), flow, flow)
>>> gram, _, size = weights()                        # only the coordinates break translations
>>> columns = 2 * model.lifting.first.weight.matrices[0, 0, :, 3:].double()
>>> bool(torch.allclose(gram, columns.mT @ columns))
True

To add a kind of weight: :mod:`fieldsym.operators.weight_lie`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Generator, Group
from fieldsym.manifold import Manifold
from fieldsym.operators.adopt import Hidden
from fieldsym.operators.typed_parameters import typed_parameters
from fieldsym.operators.weight_lie import WeightLie, WeightMap, affine_pairs, affine_products
from fieldsym.operators.weight_orbits import Orbits, inner_products
from fieldsym.operators.weight_spectra import InputSpectrum, Weighed, input_spectra

LARGE = 2**16  # complex or real entries from which weights take turns
Term = tuple[list[WeightLie], InputSpectrum | None]
Parts = tuple[int, ...]  # of the two results for a weight
GRAM, SQUARES = 0, 1
BOTH = (GRAM, SQUARES)


def in_units(xi: Generator, base: Manifold) -> Generator:
    """A generator per radian, or per shortest side of the base over 2π for a translation."""
    if xi.matrix.any():
        return xi
    return Generator(xi.name, xi.matrix, xi.shift * min(base.lengths) / (2 * math.pi))


class WeightGram:
    """Gram matrix and differences of the weights of a module under the candidates of a group.

    The tables are made once; a call reads the weights as they are, with their graph.

    Parameters
    ----------
    module, in_bundle, out_bundle, hidden : as for
        :func:`fieldsym.operators.typed_parameters.typed_parameters`
    group : Group whose k generators and m elements (of a finite group all but the identity, else
        one for each further component) are the candidates
    spectra : sections (batch, channel, *grid) of ``in_bundle``, by which the inputs of the layers
        are weighted; None weights all alike, and takes the cells of kernels for squares

    Raises
    ------
    GroupError   if a candidate does not act on some layer, or the module is not known.

    Examples
    --------
    A turn is broken by a map that stretches one axis:

    >>> import fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> layer = torch.nn.Conv2d(2, 2, 1, bias=False)
    >>> layer.weight.data = torch.diag(torch.tensor([1.0, 2.0]))[:, :, None, None]
    >>> gram, differences, size = WeightGram(layer, fs.groups.o(2), wind, wind)()
    >>> gram.item(), differences.item(), size.item() ** 2             # ‖WJ − JW‖², a mirror keeps W
    (2.0, 0.0, 5.0)

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212 (nuclear norm of the Lie derivative; layers concatenated).
    """

    def __init__(
        self,
        module: nn.Module,
        group: Group,
        in_bundle: Bundle,
        out_bundle: Bundle,
        hidden: Hidden = None,
        *,
        spectra: Tensor | None = None,
    ) -> None:
        self.parameters = typed_parameters(module, group, in_bundle, out_bundle, hidden)
        if not self.parameters:
            raise GroupError(
                f"{type(module).__name__} has no weights, so that nothing tells its symmetry. "
                'Promote the operator instead, level="operator".'
            )
        self.generators = group.generators
        self.elements = group.components
        cell = None if spectra is None else in_bundle.base.spacing(in_bundle.grid(spectra))
        known = self.generators, self.elements, cell
        self.lies = [WeightLie(p, *known) for p in self.parameters]
        inputs: list[InputSpectrum | None] = [None] * len(self.lies)
        if spectra is not None:
            inputs = input_spectra(module, self.lies, spectra)
        self.terms = _alike(self.lies, inputs)
        self.pairs = affine_pairs(self.lies, self.elements)
        self._orbits: dict[Any, Orbits | None] = {}
        self._order = _turns(self.terms, self.pairs)
        self._kept: list[list[Tensor]] = []
        self._turns = 0

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gram matrix, differences and size of the weights as they are.

        Returns
        -------
        gram : Tensor (k, k), float64, of the columns L_ξ W
        differences : Tensor (m,), float64, ‖K_g W − W‖; its gradient at zero is zero
        size : Tensor (), float64, ‖W‖. Dividing ``gram`` by its square and ``differences`` by it
            makes them independent of the scale of the weights
        """
        return _joined([self._found(i) for i in range(len(self.terms) + len(self.pairs))])

    def _found(self, i: int, parts: Parts = BOTH) -> tuple[Tensor, Tensor]:
        """Gram matrix and squares of weights that are alike, or of what two of them share."""
        if i < len(self.terms):
            return self._forms(*self.terms[i], parts)
        return affine_products(*self.pairs[i - len(self.terms)], len(self.generators))

    def turn(self) -> tuple[Tensor, Tensor, Tensor]:
        """As a call, but the weights take turns: the others count as at their last turn.

        Every large weight has two turns of its own, one for the generators and one for the
        elements; the small ones have one together. Of n turns each has n times its own gradient, so
        that over n of them the mean gradient is that of a call, at a fraction of the cost.
        """
        if not self._kept:
            with torch.no_grad():
                every = range(len(self.terms) + len(self.pairs))
                self._kept = [list(self._found(i)) for i in every]
        forms = [list(kept) for kept in self._kept]
        for i, parts in self._order[self._turns % len(self._order)]:
            found = self._found(i, parts)
            for part in parts:
                self._kept[i][part] = found[part].detach()
                forms[i][part] = _times(found[part], len(self._order))
        self._turns += 1
        return _joined(forms)

    def by_layer(self) -> tuple[Tensor, Tensor]:
        """What a call gives, layer by layer, each relative to its own size.

        A layer is one map with all its columns, those of coordinates and of fields, or one
        constant, relative to itself and the maps beside it. Zero weights keep every symmetry.

        Returns
        -------
        grams : Tensor (layers, k, k), float64
        differences : Tensor (layers, m), float64
        """
        layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
        beside: dict[str, list[Tensor]] = {}  # squared sizes of the maps of a module
        constants = set()
        for lie, spectrum in ((lie, spectrum) for lies, spectrum in self.terms for lie in lies):
            name = lie.parameter.name.removesuffix(".position")
            forms = self._forms([lie], spectrum)
            layers.setdefault(name, []).append(forms)
            if lie.parameter.role == "constant":
                constants.add(name)
            else:
                beside.setdefault(_module_of(name), []).append(forms[1][0])
        grams, differences = [], []
        for name, parts in layers.items():
            gram, difference, size = _joined(parts)
            if name in constants:
                size = sum(beside.get(_module_of(name), []), size**2).sqrt()
            size = torch.where(size > 0, size, 1)
            grams.append(gram / size**2)
            differences.append(difference / size)
        return torch.stack(grams), torch.stack(differences)

    def _forms(
        self, lies: list[WeightLie], spectrum: InputSpectrum | None, parts: Parts = BOTH
    ) -> tuple[Tensor, Tensor]:
        """Gram matrix (k, k) and squares (size, differences) of weights that are alike.

        Of the two only ``parts`` are found, the other one is zero or empty.
        """
        lie = lies[0]
        maps = list(lie.columns.values()) if GRAM in parts else []
        read = [one.open(one.parameter.read()) for one in lies]
        w = torch.cat(read) if len(read) > 1 else read[0]
        columns = maps if spectrum is None else [Weighed(f, spectrum) for f in maps]
        others = self._squares(lie, spectrum, w.dtype) if SQUARES in parts else _OneByOne([])
        gram, squares = _Forms.apply(w, columns, others)
        place = torch.eye(len(self.generators), dtype=torch.float64, device=gram.device)
        place = place[list(lie.columns)[: len(maps)]]
        return place.mT @ gram @ place, squares

    def _squares(
        self, lie: WeightLie, spectrum: InputSpectrum | None, dtype: torch.dtype
    ) -> Orbits | _OneByOne:
        """What squares one weight, at once where its precision is single."""
        others = [lie.whole, *lie.differences]
        if spectrum is not None:
            return _OneByOne([Weighed(f, spectrum) for f in others])
        p = lie.parameter
        key = p.sites.tobytes(), p.lattice, p.axes, p.role == "position", p.rep_in, p.rep_out
        if dtype == torch.float32 and key not in self._orbits:
            self._orbits[key] = lie.orbits(self.elements)
        found = self._orbits[key] if dtype == torch.float32 else None
        return _OneByOne(others) if found is None else found


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _turns(
    terms: Sequence[Term], pairs: Sequence[tuple[WeightLie, WeightLie]]
) -> list[list[tuple[int, Parts]]]:
    """What to look at in every turn, by index; pairs come after all others, with their weights."""
    turns: list[list[tuple[int, Parts]]] = []
    small: list[tuple[int, Parts]] = [(len(terms) + i, BOTH) for i in range(len(pairs))]
    paired = {id(lie) for pair in pairs for lie in pair}
    for i, (lies, _) in enumerate(terms):
        if _numbers(lies[0]) < LARGE or any(id(lie) in paired for lie in lies):
            small.append((i, BOTH))
        else:
            turns += [[(i, (part,))] for part in (BOTH if lies[0].columns else (SQUARES,))]
    return [*turns, small] if small else turns


def _numbers(lie: WeightLie) -> int:
    p = lie.parameter
    return len(p.sites) * p.rep_in.channels * p.rep_out.channels


def _times(x: Tensor, factor: int) -> Tensor:
    """The same value with a multiple of the gradient."""
    return factor * x - (factor - 1) * x.detach()


def _joined(forms: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrix, differences and size of all weights."""
    grams, squares = zip(*forms, strict=True)
    totals = sum(squares[1:], squares[0])
    norms = torch.where(totals > 0, totals, 1).sqrt() * (totals > 0)
    return sum(grams[1:], grams[0]), norms[1:], norms[0]


def _alike(lies: Sequence[WeightLie], inputs: Sequence[InputSpectrum | None]) -> list[Term]:
    """Pointwise maps between the same types together, so that one pass serves them all."""
    terms: dict[Any, Term] = {}
    for lie, spectrum in zip(lies, inputs, strict=True):
        p = lie.parameter
        alone = p.lattice != "point" or spectrum is not None
        types = p.role == "position", p.axes, p.rep_in, p.rep_out, p.isotropic
        terms.setdefault(id(lie) if alone else types, ([], spectrum))[0].append(lie)
    return list(terms.values())


class _OneByOne:
    """Squares of some maps of a weight, and their gradient."""

    def __init__(self, maps: Sequence[WeightMap | Weighed]) -> None:
        self.maps = maps

    def rows(self, w: Tensor) -> Tensor:
        """What the other two need: W itself."""
        return w

    def squares(self, w: Tensor) -> Tensor:
        """Rows in the precision of the weights, their sums in float64."""
        found = torch.zeros(len(self.maps), dtype=torch.float64, device=w.device)
        for i, f in enumerate(self.maps):
            found[i] = torch.linalg.vector_norm(f(w).flatten(1), dim=1).double().square().sum()
        return found

    def gradient(self, w: Tensor, shape: torch.Size, weights: Tensor) -> Tensor:
        """Of Σ weights · squares."""
        total = torch.zeros_like(w)
        for weight, f in zip(weights.tolist(), self.maps, strict=True):
            if weight:
                total += f.adjoint(2 * weight * f(w))
        return total


class _Forms(torch.autograd.Function):
    """Inner products of some linear maps of a weight, and squares of others.

    The backward pass is written out, so that nothing but these columns and rows is kept.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, columns: list, others: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        w = w.contiguous()
        images = [f(w) for f in columns]
        rows = others.rows(w)
        ctx.save_for_backward(rows, *images)
        ctx.maps, ctx.shape = (columns, others), w.shape
        return inner_products(images, w.device), others.squares(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gram: Tensor, squares: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, *images = ctx.saved_tensors
        columns, others = ctx.maps
        total = others.gradient(rows, ctx.shape, squares)
        for row, f in zip((gram + gram.mT).tolist(), columns, strict=True):
            total += f.adjoint(sum(g * image for g, image in zip(row, images, strict=True)))
        return total, None, None
