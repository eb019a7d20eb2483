"""The command ``convatlas``: its verbs, and how mistakes are told."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from typer._click.exceptions import ClickException  # Typer's own error base, which it does not export

from convatlas.cli.compare_models import compare_models
from convatlas.cli.data import app as data
from convatlas.cli.evaluate import evaluate
from convatlas.cli.explain import explain
from convatlas.cli.inspect import inspect
from convatlas.cli.models import models
from convatlas.cli.predict import predict
from convatlas.cli.probe import probe
from convatlas.cli.recipes import recipes
from convatlas.cli.runs import runs
from convatlas.cli.threshold import threshold
from convatlas.cli.train import train
from convatlas.errors import ConvatlasError

MISTAKE = 2
OUT_OF_MEMORY = "out of memory|not enough memory|can't allocate memory"  # as PyTorch says it of each device
INTERRUPTED = 130  # what a shell expects of a command that Ctrl-C ended

app = typer.Typer(
    name="convatlas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(probe)
app.command()(explain)
app.command()(models)
app.command()(inspect)
app.command("compare-models")(compare_models)
app.command()(recipes)
app.command()(threshold)
app.command()(runs)
app.add_typer(data, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"convatlas {version('convatlas')}")
        raise typer.Exit


@app.callback()
def convatlas(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """The classic networks of vision, made real: train, evaluate and use them from a folder of images or a table."""


def main() -> None:
    """Run the command line; a mistake is one line on standard error and exit code 2."""
    _print_any_letter()
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # `convatlas models | head`
        _leave_quietly()
    except (ConvatlasError, ClickException) as error:
        message = error.format_message() if isinstance(error, ClickException) else str(error)
        _complain(message)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        _complain(f"cannot use{place}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(OUT_OF_MEMORY, str(error)):
            raise
        _complain("out of memory. Use a smaller --set batch_size=..., a smaller --image-size or a smaller network")
    except (KeyboardInterrupt, typer.Abort):
        print("convatlas: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _print_any_letter() -> None:
    """A letter that a terminal has not must not end a training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _leave_quietly() -> NoReturn:
    """End where nobody listens any more: without a word about what could not be printed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    sys.exit(0)


def _complain(message: str) -> NoReturn:
    print(f"convatlas: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(MISTAKE)
