"""Verbs that know what their options are called elsewhere."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from ..option_names import meant, verb_meant


class Verb(TyperCommand):
    """A verb; an option that it does not have is answered by meaning: `--bs` by `--batch-size`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does it, with another sentence for an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer keeps the class of this error to itself
            if hasattr(error, "possibilities"):
                self._suggest(ctx, error.option_name)  # type: ignore[attr-defined]
            raise

    def _suggest(self, ctx: Any, name: str) -> None:
        options = {option.name: option.opts[0] for option in self.params if option.opts[0].startswith("--")}
        before = [option for option in ctx.parent.command.params if name in option.opts] if ctx.parent else []
        if before and not (name == "--network" and "backbone" in options):
            value = f" {before[0].metavar}" if before[0].metavar else ""
            ctx.fail(
                f"No such option after the verb: {name}. Put it before: attngraft {name}{value} {ctx.info_name} ..."
            )
        keys = dict.fromkeys(getattr(self.callback, "settable", ()))
        found = meant(name, [*options, *keys])
        if found is not None:
            shown = options.get(found) or f"--set {found}=VALUE"
            ctx.fail(f"No such option: {name}. Did you mean {shown}?")


class Verbs(TyperGroup):
    """The verbs; one that is not there is answered by meaning: `train` by `fit`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does it, with another sentence for a verb that is called something else here."""
        found = verb_meant(args[0])
        if found is not None and args[0] not in self.commands:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{found}'?")
        return super().resolve_command(ctx, args)
