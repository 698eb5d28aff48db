"""``python -m fieldsym`` is the command line."""

import sys

from fieldsym.cli import main

if __name__ == "__main__":
    sys.exit(main())
