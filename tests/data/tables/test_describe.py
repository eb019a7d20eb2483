from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from row_tables import payments, written
from typer.testing import CliRunner

from convatlas.cli.data import app
from convatlas.errors import DataError


def describe(*arguments: object) -> str:
    return (
        CliRunner()
        .invoke(app, ["describe", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "80"})
        .output
    )


def test_a_table_is_described(tmp_path: Path) -> None:
    path = written(payments().rename(columns={"country": "[bold]country"}), tmp_path / "payments.csv")
    output = describe(path, "--label", "fraud", "--time", "seconds")
    assert "payments  400 rows, 5 columns" in output
    assert "labels      0 380 (95.000%), 1 20 (5.000%)" in output
    assert "time        in order" in output
    assert "[bold]country" in output
    assert "fraud (label)" in output
    assert max(map(len, output.splitlines()[:8])) <= 80
    assert "column 'amount' alone tells the labels apart" in output
    content = json.loads(describe(path, "--json"))
    assert (content["rows"], content["labels"], len(content["columns"])) == (400, None, 5)


def test_a_table_of_many_columns_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "wide.npz"
    np.savez(path, X=np.random.default_rng(0).normal(size=(30, 120)))
    output = describe(path)
    assert "... and 20 more columns; --json shows them all" in output
    assert "nothing looks wrong" in output


def test_options_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    path = written(payments(), tmp_path / "p.csv")
    with pytest.raises(DataError, match=r"--grid is for images, and .*p\.csv is a table"):
        describe(path, "--grid", tmp_path / "grid.png")
    with pytest.raises(DataError, match="--label is for tables, and digits is none"):
        describe("digits", "--label", "fraud")
    with pytest.raises(DataError, match="has no column 'frau'; did you mean fraud"):
        describe(path, "--label", "frau")
