"""``convatlas models``, as a person and as a program reads it."""

from __future__ import annotations

import json

import pytest

from convatlas.cli.models import models
from convatlas.errors import UnknownNameError
from convatlas.models import describe_models


def test_json_is_the_list_of_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    models(family=None, as_json=True)
    assert json.loads(capsys.readouterr().out) == describe_models()


def test_the_table_has_a_line_a_network_and_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    models(family="lenet", as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "model year image classes parameters recipe"
    assert lines[1] == "lenet5_1998 1998 32x32x1 10 60,000 lenet"
    assert "lenet LeCun et al. 1998, Proc. IEEE 86(11)" in lines


def test_the_table_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    models(family=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(describe_models())
    assert max(map(len, lines)) <= 80


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean alexnet"):
        models(family="alexnets", as_json=False)
