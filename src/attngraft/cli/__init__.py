"""The command line: one file per verb, thin over the functions of the same name.

The files of the verbs import what they run only when they run it, so that `--help` needs no PyTorch.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import io
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from ..console_log import quiet as no_progress
from ..console_log import shown_on_console
from ..errors import AttngraftError, ConfigError
from ..formats import own_version
from ..interrupts import exit_code, stopping_at_once, undisturbed
from . import (
    adapt,
    attentions,
    bench,
    cache,
    combine,
    compare,
    explain,
    fit,
    fold,
    iterate,
    options,
    power,
    predict,
    report,
    runs,
    show,
    sites,
    store,
    watch,
)
from .output import USER_ERROR, say, say_error
from .verb import Verb, Verbs

app = typer.Typer(
    name="attngraft",
    cls=Verbs,
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: at 80 columns the boxes of rich leave a third of a line to the text
)
VERBS: dict[str, Callable[..., None]] = {
    "attentions": attentions.run,
    "sites": sites.run,
    "fit": fit.run,
    "power": power.run,
    "compare": compare.run,
    "combine": combine.run,
    "explain": explain.run,
    "fold": fold.run,
    "iterate": iterate.run,
    "store": store.run,
    "adapt": adapt.run,
    "watch": watch.run,
    "predict": predict.run,
    "report": report.run,
    "show": show.run,
    "runs": runs.run,
    "bench": bench.run,
    "cache": cache.run,
}
WATCHED = ("fit", "power", "compare", "explain", "fold", "iterate", "store", "adapt", "watch", "predict", "bench")
CONTINUED = ("fit", "power", "compare", "iterate", "adapt", "watch")


@app.callback()
def attngraft(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="FILE.py:FUNCTION", help="Code of your own network, for verbs that read a run of it."
        ),
    ] = None,
) -> None:
    """Graft attention onto pretrained CNNs, fine-tune in phases, and say honestly whether it helped."""
    if network is not None:
        guarded(_know, is_continued=False)(network)
    if version:
        say(own_version())
        raise typer.Exit


def _know(network: str) -> None:
    from ..surgery import backbone_spec

    if not backbone_spec(network).startswith("own:"):
        raise ConfigError(
            f"--network is {network}: expected FILE.py:FUNCTION, as it was given when the run was trained."
        )


def guarded(verb: Callable[..., None], *, is_continued: bool) -> Callable[..., None]:
    """Wrap a verb so that its user's errors and signals end it with one sentence.

    Errors exit with 2, Ctrl-C with 130, SIGTERM with 143 and SIGHUP with 129.

    Args:
        verb: the function behind the command.
        is_continued: whether the same command continues what was interrupted.
    """

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            with stopping_at_once():
                verb(*args, **kwargs)
        except (AttngraftError, OSError) as error:
            raise _ended(f"error: {error}", USER_ERROR) from None
        except KeyboardInterrupt as interrupt:
            saved = "what was done is saved, and the same command goes on from there."
            sentence = f"interrupted: {saved if is_continued else 'the same command begins again.'}"
            raise _ended(sentence, exit_code(interrupt)) from None

    return call


def _ended(sentence: str, code: int) -> typer.Exit:
    """Say why the process ends; torchrun and a closed terminal may send another signal meanwhile."""
    with undisturbed():
        say_error(sentence)
    atexit.register(undisturbed().__enter__)  # the exit code should be the verb's
    return typer.Exit(code)


def watchable(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the option --quiet; without it, what the verb logs is shown on standard error."""

    @functools.wraps(verb)
    def call(*args: Any, quiet: bool = False, **kwargs: Any) -> None:
        with no_progress() if quiet else shown_on_console():
            verb(*args, **kwargs)

    hints = get_type_hints(verb, include_extras=True)
    own = [parameter.replace(annotation=hints[name]) for name, parameter in inspect.signature(verb).parameters.items()]
    added = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=options.Quiet)
    call.__signature__ = inspect.Signature([*own, added])  # type: ignore[attr-defined]
    call.__annotations__ = {**hints, "quiet": options.Quiet}
    return call


for name, verb in VERBS.items():
    made = watchable(verb) if name in WATCHED else verb
    app.command(name, cls=Verb)(guarded(made, is_continued=name in CONTINUED))


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter of a file name shows its code
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with undisturbed():  # between the end of a verb and that of the process
        app()
