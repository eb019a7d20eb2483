"""``convatlas runs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def runs(
    root: Annotated[Path, typer.Argument(help="The directory that holds runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs, oldest first."""
    from convatlas.cli.console import print_json, print_runs
    from convatlas.runs import list_runs

    found, complaints = list_runs(root)
    if as_json:
        print_json(
            [{"path": str(run.path)} | run.card.model_dump(mode="json") | {"status": run.status} for run in found]
        )
    else:
        print_runs(found, root)
    for complaint in complaints:
        print(f"convatlas: {complaint}", file=sys.stderr)
