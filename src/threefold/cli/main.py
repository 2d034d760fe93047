"""The command ``threefold``: a file per verb, and one place that turns errors into words and exit codes.

0 done, 1 failed, 2 usage, 3 refused for safety, 4 fenced, 130 interrupted. A traceback is shown only where it was
asked for (``--debug`` or THREEFOLD_DEBUG=1): a person in a disaster needs a sentence and a hint.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from threefold import __version__
from threefold.cli.output import Output
from threefold.kernel.errors import BadInput, ThreefoldError

_EPILOG = "Documentation: docs/tutorial/first-evening.md. Begin with: threefold demo"

_START, _EVERY_DAY, _DISASTER = "Begin", "Every day", "Disaster"
# verb: (module, function or group, where it stands in --help)
_VERBS = {
    "demo": ("demo", "demo", _START),
    "init": ("init", "init", _START),
    "up": ("up", "up", _START),
    "check": ("check", "check", _EVERY_DAY),
    "keys": ("keys", "app", _EVERY_DAY),
    "protect": ("protect", "protect", _EVERY_DAY),
    "storage": ("storage", "app", _EVERY_DAY),
    "store": ("store", "app", _EVERY_DAY),
    "prune": ("prune", "prune", _EVERY_DAY),
    "snapshot": ("snapshot", "snapshot", _EVERY_DAY),
    "status": ("status", "status", _EVERY_DAY),
    "cost": ("cost", "cost", _EVERY_DAY),
    "crm": ("crm", "app", _EVERY_DAY),
    "sentinel": ("sentinel", "sentinel", _EVERY_DAY),
    "list": ("list_points", "list_points", _DISASTER),
    "failover": ("failover", "failover", _DISASTER),
    "failback": ("failback", "failback", _DISASTER),
    "standby": ("standby", "standby", _DISASTER),
    "recover": ("recover", "recover", _DISASTER),
    "verify": ("verify", "verify", _DISASTER),
    "eject": ("eject", "eject", _DISASTER),
}


def make_app(verb: str | None = None) -> typer.Typer:
    """The command; with ``verb`` only that one is loaded: a storage server need not load what the demo needs."""
    app = typer.Typer(
        name="threefold",
        help="Keeps a CRM on PostgreSQL alive through a disaster: every saved change is on two of three independent "
        "storage servers before the CRM says [bold]saved[/].",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback(invoke_without_command=True)(_root)
    for name, (module, member, panel) in _VERBS.items():
        if verb in {None, name}:
            found = getattr(import_module(f"threefold.cli.{module}"), member)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name, rich_help_panel=panel)
            else:
                app.command(name, rich_help_panel=panel)(found)
    return app


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", envvar="THREEFOLD_DEBUG")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    del debug
    if version:
        typer.echo(f"threefold {__version__}")
        raise typer.Exit


_Usage: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException, which typer does not export


def run() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    output = Output(as_json="--json" in arguments)
    debug = "--debug" in arguments or os.environ.get("THREEFOLD_DEBUG", "") not in {"", "0"}
    verb = next((each for each in arguments if not each.startswith("-")), None)
    sys.exit(_run(output, verb if verb in _VERBS else None, debug=debug))


def _run(output: Output, verb: str | None, *, debug: bool) -> int:
    try:
        code = make_app(verb)(standalone_mode=False)
    except ThreefoldError as error:
        if debug:
            traceback.print_exc()
        output.error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: `threefold list | head`
        return 1
    except Exception as error:  # noqa: BLE001 - the last one: a person gets a sentence, not a traceback
        if isinstance(error, _Usage):
            return _usage(error, output)
        if debug:
            traceback.print_exc()
        output.error(
            ThreefoldError(
                f"something went wrong that we did not expect: {type(error).__name__}: {error}",
                hint="run it again with THREEFOLD_DEBUG=1 and report what it shows",
            )
        )
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: Exception, output: Output) -> int:
    message = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    if not message and context is not None:  # no arguments: help was asked for
        return 2
    path = context.command_path if context is not None else "threefold"
    output.error(BadInput(f"{message[:1].lower()}{message[1:]}", hint=f"see {path} --help"))
    return 2
