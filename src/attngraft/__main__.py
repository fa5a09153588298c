"""Entry point of `attngraft` and `python -m attngraft`, also under torchrun."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends with one sentence, too."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was begun.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
