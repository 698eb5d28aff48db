"""All benchmarks, or the named ones: ``python benchmarks/run.py [equivariance speed …]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("equivariance", "speed", "accuracy", "real")


def main() -> None:
    chosen = sys.argv[1:] or list(NAMES)
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmarks {sorted(unknown)}; there are {', '.join(NAMES)}")
    for name in chosen:
        subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))], check=True)


if __name__ == "__main__":
    main()
