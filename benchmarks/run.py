"""All benchmarks, or the named ones: ``python benchmarks/run.py [equivariance speed …]``.

Options after the names go to each of them: ``python benchmarks/run.py gfno --path ../AIRS``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = (
    *("equivariance", "steerable", "enforce", "layer", "speed", "scaling", "push_forward"),
    *("recovery", "dose", "cloning", "promote_cost", "evaluation", "audit", "merit"),
    *("side_by_side", "accuracy", "real"),
)
ON_REQUEST = {"gfno": "needs a checkout of AIRS", "gpu": "needs a CUDA device"}


def main() -> None:
    listed = ", ".join(NAMES)
    asked = "; ".join(f"{name} ({why})" for name, why in ON_REQUEST.items())
    parser = argparse.ArgumentParser(
        description=f"Run all of {listed}, or the named ones. Only if named: {asked}."
    )
    parser.add_argument("names", nargs="*", metavar="name")
    options, passed = parser.parse_known_args()
    unknown = set(options.names) - {*NAMES, *ON_REQUEST}
    if unknown:
        sys.exit(f"unknown benchmarks {sorted(unknown)}; there are {listed}, {asked}")
    for name in options.names or NAMES:
        program = Path(__file__).with_name(f"{name}.py")
        ended = subprocess.run([sys.executable, str(program), *passed], check=False)
        if ended.returncode:
            sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
