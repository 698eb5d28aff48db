"""The nuclear norm of a Lie derivative, as the penalty that promotes symmetry.

ξ ↦ L_ξ F is a linear map A from the span of k candidate generators to sections. Its rank is the
dimension of what F breaks, and its nuclear norm Σ σ_i is the convex surrogate of that rank. Only
the k × k Gram matrix G = AᵀA enters, in float64: a Gram matrix in float32 loses every
σ < 3e-4 σ_1. The penalty is the variational form ½ ⟨G, W⟩ with W = (Ḡ + ε²)^{p/2−1} held fixed
(iteratively reweighted least squares), so that no decomposition is ever differentiated; Ḡ is the
running mean of G over minibatches, and ε is relative to σ_1.

Conventions: generators are orthonormal (the norm is invariant under orthogonal changes of their
basis alone), and G is divided by the squared size of F, so that σ_i are relative to F. p = 1 is the
nuclear norm, p → 0 the log-determinant.

>>> norm = NuclearNorm(2, ema=0.0, anneal=0)
>>> gram = torch.diag(torch.tensor([9.0, 16.0], dtype=torch.float64))
>>> print(f"{norm(gram):.4f}")                                          # 3 + 4, smoothed by ε
7.0000
>>> norm.singular_values
tensor([4., 3.], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from fieldsym.errors import DataError

# σ relative to the size of F below which a symmetry counts as exact, whatever σ_1 is
FLOOR = 1e-8


class NuclearNorm:
    """Smoothed Schatten-p penalty of k candidate generators from their Gram matrix.

    With m_i = √(σ_i² + ε²), σ_i the singular values of the running mean and no mean (``ema=0``),
    the value is

    * p = 1: Σ m_i,
    * 0 < p < 1: Σ (m_i^p − ε^p)/p, zero for an unbroken direction,
    * p = 0: Σ log(m_i/ε), the limit of the one above,

    and its gradient with respect to the columns A is A (G + ε²)^{p/2−1}: that of the smoothed norm.
    With a running mean the value keeps the spectrum of the mean and is linear in the Gram matrix of
    the batch: for fixed weights its expectation is the penalty of the expected Gram matrix, while
    the nuclear norm of a minibatch is too small.

    Parameters
    ----------
    k : number of generators; for k = 0 the penalty is 0
    p : exponent in [0, 1]; 1 is convex, smaller ones prune harder and shrink less
    eps : ε relative to σ_1, at the beginning and at the end
    anneal : penalties (calls, or draws paid by ``one``) over which ε falls geometrically
    ema : how much of the running mean is kept at each Gram matrix, in [0, 1); 0 keeps none

    Raises
    ------
    DataError   if an option is out of its range, or a Gram matrix is not (k, k), finite, float64.

    Examples
    --------
    The columns are equal, so that one combination of the two generators is unbroken:

    >>> columns = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    >>> norm = NuclearNorm(2)
    >>> norm(columns.T @ columns).backward()
    >>> print(f"{norm.singular_values[0]:.3f} {norm.singular_values[1]:.3f}")
    3.162 0.000
    >>> print(f"{columns.grad.norm():.3f}")                              # UVᵀ, of rank one
    1.000

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212 (promoting symmetry by the nuclear norm of L_F).
    Mohan & Fazel 2012, JMLR 13 (iteratively reweighted least squares for the Schatten-p norms).
    """

    _sum: Tensor  # of the Gram matrices, each weighted by how long ago it came
    _grams: int  # how many
    _paid_for: int  # penalties so far: the place in the schedule of ε

    def __init__(
        self,
        k: int,
        *,
        p: float = 1.0,
        eps: tuple[float, float] = (1e-2, 1e-3),
        anneal: int = 1000,
        ema: float = 0.98,
    ) -> None:
        if not _is_number(p) or not 0 <= p <= 1:
            raise DataError(f"p is the exponent of the norm, between 0 and 1; got {p!r}.")
        pair = isinstance(eps, Sequence) and len(eps) == 2
        if not pair or not all(_is_number(e) and 0 < e < 1 for e in eps):
            raise DataError(
                f"eps is the smoothing at the beginning and at the end, two numbers between 0 and "
                f"1, relative to the largest singular value; got {eps!r}."
            )
        if not is_count(anneal) or anneal < 0:
            raise DataError(
                f"anneal is a whole number of calls, 0 or more, over which eps falls; got "
                f"{anneal!r}. Pass 0 to begin with its end."
            )
        if not _is_number(ema) or not 0 <= ema < 1:
            raise DataError(
                f"ema is the share of the running mean that is kept, in [0, 1); got {ema!r}. "
                f"Pass 0 for no mean."
            )
        self.k, self.p, self.eps, self.anneal, self.ema = k, p, tuple(eps), anneal, ema
        self.reset()

    def __call__(self, gram: Tensor) -> Tensor:
        """The penalty of a Gram matrix, which joins the running mean.

        Parameters
        ----------
        gram : Tensor (k, k), float64, differentiable; divided by the squared size of the operator

        Returns
        -------
        Tensor (), float64
        """
        self.observe(gram)
        return self._paid((gram * self.weights.to(gram.device)).sum())

    def observe(self, gram: Tensor) -> None:
        """Let a Gram matrix join the running mean, without a penalty."""
        if gram.shape != (self.k, self.k) or gram.dtype != torch.float64:
            raise DataError(
                f"The Gram matrix of {self.k} generators is ({self.k}, {self.k}) in float64; got "
                f"{tuple(gram.shape)} in {gram.dtype}. Float32 loses small singular values: form "
                f"it from columns.double()."
            )
        gram = gram.detach().cpu()  # k × k: cheaper there than a decomposition on a GPU
        if not gram.isfinite().all():
            raise DataError(
                "The Gram matrix of the generators is not finite: the operator or one of its "
                "derivatives has diverged. Check its output, or lower the learning rate."
            )
        self._sum = self.ema * self._sum + (1 - self.ema) * gram
        self._grams += 1
        self._decompose()

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
        """A random eigen-direction v of the running mean, for a penalty with one derivative.

        Returns
        -------
        coefficients : Tensor (k,), float64, on the CPU; the direction is Σ c_i ξ_i
        weight : float, W's eigenvalue over the probability of the draw; see :meth:`one`
        """
        directions = self.directions
        j = int(torch.randint(self.k, (), generator=generator))
        return directions[j], self.k * float(self._eigenweights[j])

    def one(self, squared_column_norm: Tensor, weight: float) -> Tensor:
        """The penalty from the drawn direction alone: its expectation is the whole penalty.

        Parameters
        ----------
        squared_column_norm : Tensor (), ‖L_v F‖² over the squared size of F, for v of :meth:`draw`
        weight : float, from :meth:`draw`

        Examples
        --------
        >>> norm = NuclearNorm(2)
        >>> norm.observe(torch.eye(2, dtype=torch.float64))
        >>> v, weight = norm.draw()
        >>> print(f"{norm.one(v @ v, weight):.3f}")
        2.000
        """
        return self._paid(squared_column_norm.double() * weight)

    @property
    def singular_values(self) -> Tensor:
        """σ of the running mean, largest first, relative to the size of F; (k,), float64."""
        self._check_observed()
        return self._sigma

    @property
    def directions(self) -> Tensor:
        """Orthonormal combinations of the generators that belong to σ, as rows; (k, k)."""
        self._check_observed()
        return self._directions

    @property
    def smoothing(self) -> float:
        """ε of the next penalty, relative to the size of F; never below 1e-8."""
        first, last = self.eps
        progress = min(1.0, self._paid_for / self.anneal) if self.anneal else 1.0
        largest = float(self._sigma.max()) if self.k else 0.0
        return max(FLOOR, largest * first * (last / first) ** progress)

    @property
    def weights(self) -> Tensor:
        """W = (Ḡ + ε²)^{p/2−1} of the running mean; (k, k), float64, on the CPU."""
        directions = self.directions
        return directions.T @ (self._eigenweights[:, None] * directions)

    def reset(self) -> None:
        """Forget the running mean and start ε again."""
        self._sum = torch.zeros(self.k, self.k, dtype=torch.float64)
        self._grams = self._paid_for = 0
        self._decompose()

    def state_dict(self) -> dict[str, Any]:
        """The running mean and the place in the schedule; loadable with ``weights_only=True``."""
        return {"sum": self._sum.clone(), "grams": self._grams, "paid_for": self._paid_for}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        require_state(state, ("sum", "grams", "paid_for"))
        if tuple(state["sum"].shape) != (self.k, self.k):
            raise DataError(
                f"This state belongs to {len(state['sum'])} generators, the penalty has {self.k}. "
                f"Build it for the same candidates."
            )
        self._sum = state["sum"].detach().cpu().clone()
        self._grams, self._paid_for = int(state["grams"]), int(state["paid_for"])
        self._decompose()

    def _paid(self, inner: Tensor) -> Tensor:
        """½ ⟨G, W⟩ and the constant that makes the value that of the norm."""
        value = 0.5 * inner + self._constant()
        self._paid_for += 1
        return value

    def _constant(self) -> float:
        eps, sigma2 = self.smoothing, self._sigma.square()
        m = (sigma2 + eps**2).sqrt()
        if self.p == 1:
            value = m
        elif self.p == 0:
            value = (m / eps).log()
        else:
            value = (m**self.p - eps**self.p) / self.p
        return float((value - 0.5 * sigma2 * self._eigenweights).sum())

    @property
    def _eigenweights(self) -> Tensor:
        return (self._sigma.square() + self.smoothing**2) ** (self.p / 2 - 1)

    def _decompose(self) -> None:
        # (1 − ema^n): the mean starts from zero, not from the first batch
        mean = self._sum / max(1 - self.ema**self._grams, torch.finfo(torch.float64).tiny)
        self._sigma, self._directions = spectrum(mean)

    def _check_observed(self) -> None:
        if self.k and not self._grams:
            raise DataError(
                "Nothing has been measured yet, so that no singular values are known: call the "
                "penalty once (penalty(x), or penalty() at level 'weights') before asking."
            )


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """σ of a Gram matrix (k, k), largest first, and the combination of each as a row."""
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp_min(0).sqrt(), vectors.T.flip(0).contiguous()


def is_count(value: object) -> bool:
    """Whether a value is a whole number, of Python or NumPy."""
    return isinstance(value, Integral)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def require_state(state: object, keys: Sequence[str]) -> None:
    """Raise ``DataError`` unless a state holds what ``state_dict`` puts into it."""
    missing = [key for key in keys if not isinstance(state, Mapping) or key not in state]
    if missing:
        raise DataError(
            f"This is no state of a penalty: it lacks {', '.join(missing)}. Give what its "
            "state_dict() returned."
        )
