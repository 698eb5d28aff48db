"""Groups of affine maps of the base, as data.

A group is a list of generators of its Lie algebra (a matrix A and a shift b: the vector field
X(x) = A x + b) and one representative per further connected component; a finite group lists all its
elements. Points are measured from the centre of the base, so a rotation turns about the centre.
How a fibre transforms follows from the matrix alone (:mod:`fieldsym.representation`).

>>> import fieldsym as fs
>>> fs.groups.dihedral(4).order
8
>>> fs.groups.se(2).generators[2].name
'rotation xy'

To add one: write a function in the catalogue below that returns a ``Group`` (generators as matrices
and shifts, one element per further component, or the matrices that generate a finite group).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from fieldsym.errors import GroupError, requirer

if TYPE_CHECKING:
    from torch import Tensor

    from fieldsym.bundle import Bundle
    from fieldsym.manifold import Manifold

Array = np.ndarray
AXES = "xyz"
TOLERANCE = 1e-9  # elements closer than this are the same element


@dataclass(frozen=True, eq=False)
class Element:
    """An affine map x ↦ A x + b of the base, measured from its centre.

    Parameters
    ----------
    matrix : (d, d) array
    shift : (d,) array, in units of length

    Examples
    --------
    >>> import fieldsym as fs
    >>> quarter = fs.groups.cyclic(4).elements[1]
    >>> quarter.name, (quarter @ quarter).name, (quarter @ quarter.inverse).name
    ('rotation 90°', 'rotation 180°', 'identity')
    """

    matrix: Array
    shift: Array = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        matrix = _numbers("An element needs a square matrix", self.matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise GroupError(f"An element needs a square matrix; got shape {matrix.shape}.")
        shift = (
            np.zeros(len(matrix))
            if self.shift is None
            else _numbers("A shift has one length per axis", self.shift)
        )
        if shift.shape != (len(matrix),):
            raise GroupError(
                f"An element of dimension {len(matrix)} needs a shift of {len(matrix)} lengths; "
                f"got shape {shift.shape}."
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "shift", shift)

    def __repr__(self) -> str:
        return f"Element({self.name})"

    @cached_property
    def name(self) -> str:
        """What the map does, in words."""
        return _element_name(self.matrix, self.shift)

    @cached_property
    def key(self) -> bytes:
        """Hashable identity of the map, equal for maps that agree to 1e-6."""
        return (np.rint(np.column_stack([self.matrix, self.shift]) * 1e6) + 0.0).tobytes()

    @property
    def dim(self) -> int:
        """Dimension of the base."""
        return len(self.matrix)

    def __matmul__(self, other: Element) -> Element:
        """The map that applies ``other`` first."""
        return Element(self.matrix @ other.matrix, self.matrix @ other.shift + self.shift)

    @property
    def inverse(self) -> Element:
        """The inverse map."""
        inverse = np.linalg.inv(self.matrix)
        return Element(inverse, -inverse @ self.shift)

    @property
    def is_identity(self) -> bool:
        """Whether this is the identity to rounding."""
        return self.key == Element(np.eye(self.dim)).key


@dataclass(frozen=True, eq=False)
class Generator:
    """An element ξ of the Lie algebra: the vector field X(x) = A x + b on the base.

    Parameters
    ----------
    name : str
    matrix : (d, d) array, per unit of the group parameter (radians for rotations)
    shift : (d,) array, in units of length
    """

    name: str
    matrix: Array
    shift: Array

    @property
    def dim(self) -> int:
        """Dimension of the base."""
        return len(self.matrix)


@dataclass(frozen=True, eq=False)
class Group:
    """A Lie group acting on the base by affine maps.

    Parameters
    ----------
    name : str
    dim : int, dimension of the base
    generators : basis of the Lie algebra; empty for a finite group
    components : one representative of each connected component but that of the identity
    elements : all elements of a finite group, identity first; empty otherwise
    periods : lengths modulo which the shifts of its elements count; empty where they do not

    Examples
    --------
    >>> import fieldsym as fs
    >>> [g.name for g in fs.groups.dihedral(1).elements]
    ['identity', 'reflection y → −y']
    >>> fs.groups.e(2)
    e(2)
    """

    name: str
    dim: int
    generators: tuple[Generator, ...] = ()
    components: tuple[Element, ...] = ()
    elements: tuple[Element, ...] = ()
    periods: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return self.name

    @property
    def is_finite(self) -> bool:
        """Whether the group has finitely many elements."""
        return not self.generators

    @property
    def order(self) -> int:
        """Number of elements of a finite group.

        Raises
        ------
        GroupError   if the group is not finite.
        """
        return len(self._finite_elements())

    def _finite_elements(self) -> tuple[Element, ...]:
        if not self.is_finite:
            raise GroupError(
                f"A finite group is needed here; {self.name} has {len(self.generators)} continuous "
                "generators. Use a finite subgroup such as cyclic(4) or dihedral(4)."
            )
        return self.elements

    @cached_property
    def _positions(self) -> dict[bytes, int]:
        elements = self._finite_elements()
        return {wrap(g, self.periods).key: i for i, g in enumerate(elements)}

    @cached_property
    def table(self) -> Array:
        """Multiplication table of a finite group: ``elements[table[i, j]]`` is g_i g_j."""
        elements = self._finite_elements()
        return np.array([[self.index(g @ h) for h in elements] for g in elements])

    def index(self, element: Element) -> int:
        """Position of an element in ``elements``.

        Raises
        ------
        GroupError   if it is not an element of this finite group.
        """
        require_element(element, f"{self.name}.index")
        position = self._positions.get(wrap(element, self.periods).key)
        if position is not None:
            return position
        raise GroupError(
            f"{element.name} is not an element of {self.name}, which has "
            f"{', '.join(g.name for g in self.elements[:8])}."
        )

    def exp(self, xi: Generator | Sequence[float]) -> Element:
        """Exponential of a generator, or of a combination of the generators.

        Parameters
        ----------
        xi : Generator or one coefficient per generator

        Examples
        --------
        >>> import math, fieldsym as fs
        >>> fs.groups.so(2).exp([math.pi / 2]).name
        'rotation 90°'
        """
        if isinstance(xi, Generator):
            matrix, shift = xi.matrix, xi.shift
        else:
            wanted = f"{self.name}.exp needs a Generator or one number per generator"
            coefficients = np.atleast_1d(_numbers(wanted, xi))
            if coefficients.shape != (len(self.generators),):
                raise GroupError(
                    f"{self.name} has {len(self.generators)} generators "
                    f"({', '.join(x.name for x in self.generators)}); got "
                    f"{coefficients.size} coefficients."
                )
            pairs = list(zip(coefficients, self.generators, strict=True))
            matrix = sum((c * x.matrix for c, x in pairs), np.zeros((self.dim, self.dim)))
            shift = sum((c * x.shift for c, x in pairs), np.zeros(self.dim))
        block = np.zeros((self.dim + 1, self.dim + 1))
        block[:-1, :-1], block[:-1, -1] = matrix, shift
        moved = torch.linalg.matrix_exp(torch.from_numpy(block)).numpy()
        return Element(moved[:-1, :-1], moved[:-1, -1])

    @staticmethod
    def bracket(xi: Generator, eta: Generator) -> Generator:
        """Lie bracket [ξ, η] = ξη − ηξ of the affine matrices."""
        return Generator(
            f"[{xi.name}, {eta.name}]",
            xi.matrix @ eta.matrix - eta.matrix @ xi.matrix,
            xi.matrix @ eta.shift - eta.matrix @ xi.shift,
        )

    def __mul__(self, other: Group) -> Group:
        """The group of products g h; both factors act on the same base."""
        if self.dim != require_group(other, "A product of groups").dim:
            raise GroupError(
                f"A product needs groups on one base; {self.name} acts in {self.dim}-D and "
                f"{other.name} in {other.dim}-D."
            )
        name = f"{self.name} × {other.name}"
        generators = self.generators + other.generators
        elements = _distinct(g @ h for g in self._cosets() for h in other._cosets())
        periods = self.periods or other.periods
        if generators:
            return Group(name, self.dim, generators, elements[1:], (), periods)
        whole = closure(elements, self.dim, periods=periods)
        return Group(name, self.dim, (), elements[1:], whole, periods)

    def stabiliser(self, field: Tensor | Sequence[float], bundle: Bundle | None = None) -> Group:
        """The subgroup that leaves a field as it is, {g : g·f = f}.

        An operator that is equivariant when it is also given f is equivariant under this subgroup
        when f is held fixed (gravity, a forcing, the Coriolis parameter).

        Parameters
        ----------
        field : one row of numbers, a constant: a vector, or of the type of ``bundle``; or a Tensor
            (channel, *grid), a section of ``bundle``
        bundle : Bundle

        Returns
        -------
        Group   with the generators of the fixed directions and one element per component. For a
        section on a torus and a product with translations also the shifts by whole cells that fix
        it, alone or together with another element. Shifts by fractions of a cell are **not found**,
        and the group is then too small: the shifts tried are the samples of a correlation, which
        lie on the grid. A wave of period L/3 on 16 points keeps none of its shifts by L/3; sample
        the field on a grid on which its period is a whole number of cells (15 or 18 points).

        Raises
        ------
        BundleError   if the field is no constant and no section of the bundle.
        GroupError    if the group does not act on the base and grid of a section.

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> fs.groups.so(3).stabiliser([0.0, 0.0, -9.8]).generators[0].name
        'rotation xy'
        >>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
        >>> x, y = 2 * torch.pi * p.base.coordinates((12, 12))
        >>> group = fs.groups.cyclic(2) * fs.groups.translations(2)
        >>> kept = group.stabiliser(torch.cos(2 * x)[None] + 0 * y, p)
        >>> [xi.name for xi in kept.generators], [g.name for g in kept.components]
        (['translation y'], ['shift (0.5, 0)', 'rotation 180°', 'rotation 180° + shift (0.5, 0)'])
        """
        # the one import that points up: it moves fields, which a user asks of the group
        from fieldsym.action_stabiliser import stabiliser

        return stabiliser(self, field, bundle)

    def acting_on(self, base: Manifold, grid: Sequence[int] | None = None) -> Group:
        """The largest subgroup of a finite group that acts on a base, or exactly on its grid.

        Parameters
        ----------
        base : Manifold
        grid : sizes of the axes; without it only the base is asked
        """
        _require_base(base, f"{self.name}.acting_on")
        kept = tuple(g for g in self._finite_elements() if base.admits(g, grid))
        if len(kept) == len(self.elements):
            return self
        return _named(kept, self)

    def check(self, base: Manifold, grid: Sequence[int] | None = None) -> None:
        """Raise unless the group acts on a base, or exactly on its grid.

        Raises
        ------
        GroupError   naming the largest subgroup that does act.
        """
        _require_base(base, f"{self.name}.check")
        where = f"{base}" + ("" if grid is None else f" with {' × '.join(map(str, grid))} points")
        if self.dim != base.dim:
            raise GroupError(
                f"{self.name} acts in {self.dim} dimensions but {where} has {base.dim}. Give the "
                f"group its dimension, for example groups.reflections({base.dim})."
            )
        if self.generators:
            self._check_continuous(base, where)
            Group(self.name, self.dim, (), self.components, self._cosets()).check(base, grid)
            return
        largest = self.acting_on(base, grid)
        if largest is not self:
            lost = next(g for g in self.elements if not base.admits(g, grid))
            raise GroupError(
                f"{self.name} does not act on {where}: it has no {lost.name}"
                f"{base.reason(lost, grid)}. The largest subgroup that acts is {largest.name}."
            )

    def _check_continuous(self, base: Manifold, where: str) -> None:
        for xi in self.generators:
            if np.any(xi.matrix):
                raise GroupError(
                    f"{self.name} does not act on {where}: {xi.name} turns or stretches the box "
                    "out of itself. Enforce the finite subgroup (cyclic(4), dihedral(4), …) and "
                    "measure the continuous one inside a region of the base."
                )
            for axis in np.flatnonzero(xi.shift):
                if not base.periodic[axis]:
                    raise GroupError(
                        f"{self.name} does not act on {where}: axis {AXES[axis]} is not periodic, "
                        "so a translation along it moves the edge. Take those of the periodic axes "
                        "alone, such as 'translations(x)'."
                    )

    def _cosets(self) -> tuple[Element, ...]:
        """One element of every component, that of the identity first."""
        return (Element(np.eye(self.dim)), *self.components)

    def subgroup(self, name: str, keep: Iterable[Element]) -> Group:
        """The subgroup of a finite group generated by some of its elements."""
        elements = closure((Element(np.eye(self.dim)), *keep), self.dim, periods=self.periods)
        for g in elements:
            self.index(g)
        return Group(name, self.dim, (), elements[1:], elements, self.periods)


require_group = requirer(
    Group, GroupError,
    "a Group, such as groups.dihedral(4) (groups.named(text, dim) reads text)",
)  # fmt: skip
require_element = requirer(
    Element, GroupError, "an Element, such as group.elements[1] or group.exp([0.1])"
)


# by what it is asked for: the class itself is no business of this file
def _require_base(base: object, who: str) -> None:
    if not hasattr(base, "admits"):
        raise GroupError(f"{who} needs a base, such as Torus((1.0, 1.0)); got {base!r}.")


def _numbers(wanted: str, values: object) -> Array:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise GroupError(f"{wanted}; got {values!r}.") from None


def _distinct(elements: Iterable[Element]) -> tuple[Element, ...]:
    return tuple({g.key: g for g in elements}.values())


def wrap(g: Element, periods: Sequence[float]) -> Element:
    """The element with its shift between zero and the periods."""
    if not periods:
        return g
    whole = [n * np.floor(s / n + 1e-9) if np.isfinite(n) else 0.0
             for s, n in zip(g.shift, periods, strict=True)]  # fmt: skip
    return Element(g.matrix, g.shift - np.array(whole))


def closure(
    generators: Iterable[Element], dim: int, limit: int = 512, periods: Sequence[float] = ()
) -> tuple[Element, ...]:
    """All products of some elements, identity first."""
    generators = tuple(generators)
    elements = [Element(np.eye(dim))]
    seen = {elements[0].key}
    for g in elements:  # grows while it is read: breadth first
        for new in (wrap(h @ g, periods) for h in generators):
            if new.key not in seen:
                seen.add(new.key)
                elements.append(new)
        if len(elements) > limit:
            raise GroupError(f"These elements generate more than {limit} maps: not a finite group.")
    return tuple(elements)


def _element_name(matrix: Array, shift: Array) -> str:
    point = _matrix_name(matrix)
    if not np.abs(shift).max() > TOLERANCE:
        return point
    moved = f"shift ({', '.join(f'{s:.4g}' for s in shift)})"
    return moved if point == "identity" else f"{point} + {moved}"


def _matrix_name(matrix: Array) -> str:
    dim = len(matrix)
    if np.abs(matrix - np.eye(dim)).max() < TOLERANCE:
        return "identity"
    if np.abs(matrix @ matrix.T - np.eye(dim)).max() > 1e-6:
        return "affine map"
    rounded = np.rint(matrix)
    diagonal = np.abs(matrix - np.diag(np.diag(matrix))).max() < TOLERANCE
    if diagonal and np.sum(rounded == -1) == 1:
        axis = AXES[int(np.argmin(np.diag(rounded)))]
        return f"reflection {axis} → −{axis}"
    if dim == 2:
        return _name_2d(matrix)
    if dim == 3:
        return _name_3d(matrix)
    return "affine map"


def _name_2d(matrix: Array) -> str:
    angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])) % 360
    if np.linalg.det(matrix) > 0:
        return f"rotation {angle:.6g}°"
    swaps = {90.0: "reflection x ↔ y", 270.0: "reflection x ↔ −y"}
    return swaps.get(round(angle, 9), f"reflection in the line at {angle / 2:.6g}°")


def _name_3d(matrix: Array) -> str:
    proper = np.linalg.det(matrix) > 0
    rotation = matrix if proper else -matrix
    cosine = np.clip((np.trace(rotation) - 1) / 2, -1, 1)
    angle = np.degrees(np.arccos(cosine))
    if angle < 1e-6:
        return "inversion"
    values, vectors = np.linalg.eig(rotation)
    axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    sense = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                      rotation[1, 0] - rotation[0, 1]])  # fmt: skip
    lead = axis @ sense if np.abs(sense).max() > 1e-9 else axis[np.argmax(np.abs(axis))]
    axis = axis / np.abs(axis).max() * (1.0 if lead > 0 else -1.0)
    text = ",".join(f"{a:.3g}" for a in np.where(np.abs(axis) < 1e-9, 0.0, axis))
    return f"{'rotation' if proper else 'roto-reflection'} {angle:.6g}° ({text})"


def _named(elements: tuple[Element, ...], parent: Group) -> Group:
    """Give a set of elements the name of the catalogue group it equals, if there is one."""
    keys = {g.key for g in elements}
    for candidate in _catalogue(parent.dim):
        if {g.key for g in candidate.elements} == keys:
            return candidate
    name = f"the subgroup of {parent.name} of order {len(elements)}"
    return Group(name, parent.dim, (), elements[1:], elements, parent.periods)


def _catalogue(dim: int) -> list[Group]:
    groups = [trivial(dim)]
    if dim == 2:
        groups += [cyclic(n) for n in (2, 3, 4, 6)] + [dihedral(n) for n in (1, 2, 3, 4, 6)]
    if dim == 3:
        groups += [octahedral(), octahedral(reflections=False)]
        groups += [cyclic(n, dim=3) for n in (2, 4)] + [dihedral(n, dim=3) for n in (2, 4)]
    return [*groups, reflections(dim)]


def _plane(matrix: Array, dim: int, axes: tuple[int, int]) -> Array:
    """Embed a 2 × 2 matrix in the plane of two axes."""
    full = np.eye(dim)
    full[np.ix_(axes, axes)] = matrix
    return full


def _rotation(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return snap(np.array([[c, -s], [s, c]]))


def snap(matrix: Array) -> Array:
    """Make entries that are 0 or ±1 up to rounding exactly so: lattice maps stay exact."""
    rounded = np.rint(matrix)
    return np.where(np.abs(matrix - rounded) < 1e-12, rounded, matrix)


def _finite(name: str, dim: int, matrices: Sequence[Array]) -> Group:
    elements = closure([Element(m) for m in matrices], dim)
    return Group(name, dim, (), elements[1:], elements)


def _check_order(name: str, n: int, dim: int) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise GroupError(f"{name}(n) needs a whole number of rotations n ≥ 1; got {n!r}.")
    if n < 1:
        raise GroupError(f"{name}(n) needs n ≥ 1; got {n}.")
    _check_dim(name, dim, (2, 3))


def _check_dim(name: str, dim: int, allowed: tuple[int, ...]) -> None:
    if dim not in allowed:
        raise GroupError(
            f"{name} acts in {' or '.join(map(str, allowed))} dimensions; got {dim!r}."
        )


def named(text: str, dim: int) -> Group:
    """The group of a catalogue expression, as the command line and checkpoints write it.

    Parameters
    ----------
    text : such as "dihedral(4)", "translations * cyclic(4)", or "none" for the trivial group
    dim : dimension of the base, used where the expression does not give one

    Raises
    ------
    GroupError   if the expression is not understood; it lists the catalogue.

    Examples
    --------
    >>> named("dihedral(4) * translations", 2)
    dihedral(4) × translations(2)
    """
    product: Group | None = None
    for factor in re.split(r"[*×]", str(text)):
        group = _factor(factor.strip(), dim, text)
        product = group if product is None else product * group
    return product if product is not None else trivial(dim)


CATALOGUE = (
    *("trivial", "translations", "cyclic", "dihedral", "reflections", "octahedral"),
    *("so", "o", "se", "e"),
)


def _factor(text: str, dim: int, whole: str) -> Group:
    if text == "none":
        return trivial(dim)
    match = re.fullmatch(r"([a-z]+)(?:\((.*)\))?", text)
    if match is None or match[1] not in CATALOGUE:
        raise GroupError(
            f"Expected groups out of {', '.join(CATALOGUE)}, joined by '*'; got {whole!r}. "
            "Examples: 'dihedral(4)', 'translations * cyclic(4)', 'none'."
        )
    name, inside = match[1], (match[2] or "").replace(" ", "")
    if name == "octahedral" and inside in ("", "reflections=False"):
        return octahedral(reflections=not inside)
    if name in ("cyclic", "dihedral"):
        plane = re.fullmatch(r"(\d+)(?:,dim=\d)?(?:,axes=\((\d),(\d)\))?", inside)
        if plane is None:
            raise GroupError(
                f"{name} needs its number of rotations, such as {name}(4); got {text!r}."
            )
        axes = (int(plane[2]), int(plane[3])) if plane[2] else (0, 1)
        return {"cyclic": cyclic, "dihedral": dihedral}[name](int(plane[1]), dim=dim, axes=axes)
    if name == "translations" and re.fullmatch("[xyz](,[xyz])*", inside):
        return translations(dim, axes=[AXES.index(a) for a in inside.split(",")])
    own = {"trivial": trivial, "translations": translations, "reflections": reflections,
           "so": so, "o": o, "se": se, "e": e}  # fmt: skip
    if name not in own or not re.fullmatch(r"\d?", inside):
        raise GroupError(
            f"{name} takes the dimension of the base or nothing, and translations also axes: "
            f"'{name}', 'translations(x)'; got {text!r}."
        )
    return own[name](int(inside or dim))


# The catalogue ------------------------------------------------------------------------------------


def trivial(dim: int = 2) -> Group:
    """The group with one element."""
    _check_dim("trivial", dim, (1, 2, 3))
    return _finite("trivial", dim, [np.eye(dim)])


def translations(dim: int = 2, *, axes: Sequence[int] | None = None) -> Group:
    """Translations along each axis (or some), in units of length.

    Examples
    --------
    >>> translations(2, axes=[0])                           # about the pole: longitude is axis 0
    translations(x)
    """
    _check_dim("translations", dim, (1, 2, 3))
    chosen = range(dim) if axes is None else axes
    if not set(chosen) <= set(range(dim)) or not chosen:
        raise GroupError(f"A base of {dim} dimensions has axes 0 to {dim - 1}; got {list(chosen)}.")
    zero = np.zeros((dim, dim))
    along = [Generator(f"translation {AXES[i]}", zero, np.eye(dim)[i]) for i in chosen]
    name = str(dim) if axes is None else ",".join(AXES[i] for i in axes)
    return Group(f"translations({name})", dim, tuple(along))


def cyclic(n: int, *, dim: int = 2, axes: tuple[int, int] = (0, 1)) -> Group:
    """Rotations by multiples of 360°/n in the plane of two axes."""
    _check_order("cyclic", n, dim)
    turn = _plane(_rotation(2 * np.pi / n), dim, axes)
    return _finite(_plane_name(f"cyclic({n}", dim, axes), dim, [turn])


def dihedral(n: int, *, dim: int = 2, axes: tuple[int, int] = (0, 1)) -> Group:
    """Rotations by multiples of 360°/n and the reflections y → −y, … of a plane (order 2 n)."""
    _check_order("dihedral", n, dim)
    turn = _plane(_rotation(2 * np.pi / n), dim, axes)
    mirror = _plane(np.diag([1.0, -1.0]), dim, axes)
    return _finite(_plane_name(f"dihedral({n}", dim, axes), dim, [turn, mirror])


def _plane_name(text: str, dim: int, axes: tuple[int, int]) -> str:
    if dim == 2:
        return f"{text})"
    plane = "" if axes == (0, 1) else f", axes={axes}"
    return f"{text}, dim={dim}{plane})"


def reflections(dim: int = 1) -> Group:
    """Reflections of every axis and their products (order 2^dim)."""
    _check_dim("reflections", dim, (1, 2, 3))
    mirrors = [np.diag(np.where(np.arange(dim) == i, -1.0, 1.0)) for i in range(dim)]
    return _finite(f"reflections({dim})", dim, mirrors)


def octahedral(*, reflections: bool = True) -> Group:
    """Symmetries of the cube: 48 elements, or its 24 rotations."""
    quarter = [_plane(_rotation(np.pi / 2), 3, axes) for axes in ((0, 1), (1, 2))]
    if reflections:
        return _finite("octahedral()", 3, [*quarter, -np.eye(3)])
    return _finite("octahedral(reflections=False)", 3, quarter)


def so(dim: int) -> Group:
    """Rotations about the centre, in radians; in 3-D the generators turn about x, y and z."""
    _check_dim("so", dim, (2, 3))
    planes = [(0, 1)] if dim == 2 else [(1, 2), (2, 0), (0, 1)]
    return Group(f"so({dim})", dim, tuple(_turn(dim, i, j) for i, j in planes))


def _turn(dim: int, i: int, j: int) -> Generator:
    matrix = np.zeros((dim, dim))
    matrix[j, i], matrix[i, j] = 1.0, -1.0
    return Generator(f"rotation {AXES[i]}{AXES[j]}", matrix, np.zeros(dim))


def o(dim: int) -> Group:
    """Rotations and reflections about the centre."""
    _check_dim("o", dim, (2, 3))
    mirror = Element(np.diag([1.0] * (dim - 1) + [-1.0]))
    return Group(f"o({dim})", dim, so(dim).generators, (mirror,))


def se(dim: int) -> Group:
    """Translations and rotations."""
    _check_dim("se", dim, (2, 3))
    return Group(f"se({dim})", dim, translations(dim).generators + so(dim).generators)


def e(dim: int) -> Group:
    """Translations, rotations and reflections."""
    _check_dim("e", dim, (2, 3))
    return Group(f"e({dim})", dim, se(dim).generators, o(dim).components)
