"""What an FNO cannot be built with and why, and what its group leaves alone."""

from __future__ import annotations

from collections.abc import Sequence

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Group
from fieldsym.manifold import Manifold
from fieldsym.representation import Representation

SKIPS = ("linear", "identity", "soft-gating", None)
NORMS = ("instance_norm", "group_norm", None)


def check_bases(in_bundle: Bundle, out_bundle: Bundle) -> Manifold:
    """The base of both bundles."""
    require_bundle(in_bundle, "FNO")
    require_bundle(out_bundle, "FNO")
    if in_bundle.base != out_bundle.base:
        raise BundleError(
            f"FNO maps between bundles on one base; got {in_bundle.base} and {out_bundle.base}."
        )
    return in_bundle.base


def exchanged_axes(group: Group, base: Manifold) -> tuple[tuple[int, int], ...]:
    """Axes that some element carries to another one; they need equally many points."""
    pairs = {
        (axis, source)
        for g in group.elements
        for axis, source in enumerate((base.lattice(g) or ((), ()))[0])
        if axis < source
    }
    return tuple(sorted(pairs))


def check_group(group: Group, bundle: Bundle, n_modes: Sequence[int], hidden: int) -> None:
    """Refuse a group that does not act on the base, the modes or the width."""
    if hidden < 1:
        raise GroupError(f"hidden_channels must be positive; got {hidden}.")
    if not group.is_finite:
        raise GroupError(
            f"FNO is exact for finite groups (translations are built in); got {group.name}. Use "
            "cyclic(4) or dihedral(4) on a square torus and measure the rest, or SteerableFNO, "
            "whose symbols turn by every angle."
        )
    if any(g.shift.any() for g in group.elements):
        raise GroupError(
            f"{group.name} holds shifts, which every FNO commutes with already. Give the point "
            "group alone."
        )
    group.check(bundle.base)
    for g in group.elements:
        permutation, _ = bundle.base.lattice(g) or ((), ())
        if any(n_modes[axis] != n_modes[source] for axis, source in enumerate(permutation)):
            raise GroupError(
                f"{g.name} exchanges axes with n_modes {tuple(n_modes)}: give exchanged axes the "
                "same number of modes."
            )
    if hidden % group.order:
        lower = hidden // group.order * group.order
        choices = f"{lower} or {lower + group.order}" if lower else f"{group.order}"
        raise GroupError(
            f"hidden_channels holds whole copies of the regular representation of {group.name}, "
            f"{group.order} channels each; got {hidden}. Use {choices}."
        )


def refuse_options(
    norm: str | None, fno_skip: str | None, channel_mlp_skip: str | None, domain_padding: object
) -> None:
    """Refuse norms, skips and padding that are unknown or break a symmetry."""
    if norm not in NORMS:
        raise GroupError(
            f"norm is one of {NORMS}; got {norm!r}. Norms with one scale per channel or per "
            "position would tell the images of a field apart."
        )
    for name, skip in (("fno_skip", fno_skip), ("channel_mlp_skip", channel_mlp_skip)):
        if skip not in SKIPS:
            raise GroupError(f"{name} is one of {SKIPS}; got {skip!r}.")
    if domain_padding is not None:
        raise GroupError(
            f"domain_padding={domain_padding!r} would break the translations of a periodic axis. "
            "Leave it None; non-periodic axes are padded by themselves."
        )


def refuse_position(positional_embedding: object, group: Group) -> None:
    """Refuse coordinates as inputs where there is a group to keep."""
    if positional_embedding not in (None, "grid"):
        raise GroupError(
            f"positional_embedding is None or 'grid'; got {positional_embedding!r}. Give any other "
            "known field as a typed input."
        )
    if positional_embedding == "grid" and group.order > 1:
        raise GroupError(
            f"positional_embedding='grid' would break translations and {group.name}: a point could "
            "be told from its images. Leave it None; non-periodic axes get their position as a "
            "typed input by themselves."
        )


def invariants(rep: Representation, group: Group) -> int:
    """Dimension of what a finite group leaves as it is, the mean of the character.

    Examples
    --------
    >>> import fieldsym as fs
    >>> invariants(fs.Representation("scalar p + vector u", 2), fs.groups.dihedral(4))
    1
    """
    return round(sum(float(rep.rho(g).trace()) for g in group.elements) / group.order)
