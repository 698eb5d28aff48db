"""Configuration of a training run: one dataclass, which is also the command line.

>>> TrainConfig(group="dihedral(4)").hidden_channels
32
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from fieldsym.errors import DataError

POSITIVE = (
    *("epochs", "batch_size", "learning_rate", "patience", "hidden_channels", "n_layers"),
    *("history", "lead", "horizon", "train", "valid"),
)


@dataclass(frozen=True)
class TrainConfig:
    """What to learn, with which operator, and how.

    Parameters
    ----------
    variables : str
        variables of the file, separated by commas; default every field on the grid
    types : str
        what the file does not say: "vector u = uwnd, vwnd; pseudoscalar w = vorticity"
    levels : str
        levels of a vertical axis to keep, separated by commas: "500, 850"
    group : str
        symmetry to enforce: "none", "cyclic(4)", "dihedral(4)", "dihedral(2)", …
    n_modes : int
        odd number of kept frequencies per axis
    hidden_channels : int
        width of the operator, a multiple of the order of the group
    n_layers : int
        number of Fourier layers
    positional_embedding : str
        "grid" gives a plain operator its coordinates (group "none" only)
    history : int
        steps of input
    lead : int
        steps from the latest input to the forecast
    horizon : int
        forecasts in a row that the loss counts, each from the one before
    train : float
        fraction of samples (or of the series, in time) to learn from
    valid : float
        fraction to choose the best epoch by; what is left is the test part
    epochs : int
        passes over the training part
    batch_size : int
        windows per step
    learning_rate : float
        initial rate of Adam, annealed to zero along a cosine
    patience : int
        epochs without a better validation error before training stops
    augment : str
        group whose random elements move each training batch, such as "dihedral(4)"
    seed : int
        of the initial weights, the order of the batches and the augmentation
    accelerator : str
        "auto", "cpu" or "cuda"
    """

    variables: str | None = None
    types: str | None = None
    levels: str | None = None
    group: str = "none"
    n_modes: int = 17
    hidden_channels: int = 32
    n_layers: int = 4
    positional_embedding: str | None = None
    history: int = 1
    lead: int = 1
    horizon: int = 1
    train: float = 0.7
    valid: float = 0.15
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    patience: int = 10
    augment: str = "none"
    seed: int = 0
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise DataError(f"{name} must be positive; got {getattr(self, name)}.")
        if self.train + self.valid > 1 - 1e-9:
            raise DataError(
                f"train and valid must leave a test part; got {self.train} and {self.valid}, with "
                "a sum of 1 or more."
            )
        if self.history > 1 and self.lead > 1 and self.horizon > 1:
            raise DataError(
                "With a history and a lead of several steps a forecast cannot be fed back; "
                f"got history={self.history}, lead={self.lead}, horizon={self.horizon}. Use "
                "horizon=1, history=1 or lead=1."
            )

    def to_dict(self) -> dict[str, object]:
        """Plain numbers and strings, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, object]) -> TrainConfig:
        """The configuration of :meth:`to_dict`.

        Raises
        ------
        DataError   if an entry is not known.
        """
        unknown = set(entries) - {f.name for f in fields(cls)}
        if unknown:
            raise DataError(f"Unknown configuration entries {sorted(unknown)}.")
        return cls(**entries)  # type: ignore[arg-type]


def listed(text: object) -> list[str] | None:
    """The entries of a text separated by commas.

    Examples
    --------
    >>> listed("500, 850"), listed(None)
    (['500', '850'], None)
    """
    return None if text is None else [part.strip() for part in str(text).split(",")]
