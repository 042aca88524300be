"""`python -m bondwise`: see `cli.py`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 — another interpreter than the one we ask for may be set in the editor
    sys.exit("Bondwise needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (" + sys.executable + ").")

from bondwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
