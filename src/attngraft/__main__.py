"""Entry point of `attngraft` and `python -m attngraft`, also under torchrun."""

from __future__ import annotations

import sys

from .formats import own_version


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends with one sentence, too."""
    if sys.argv[1:] == ["--version"]:  # half a second sooner than by way of all verbs
        sys.stdout.write(f"{own_version()}\n")
        return
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was begun.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
