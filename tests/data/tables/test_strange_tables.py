"""Tables that a stranger made to harm, or that are damaged anywhere: one line, and little is read."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from row_tables import payments, written

from convatlas.data.tables import RowEncoding, anomalies_in, delimited, is_table, open_table, read_chunks, split_rows
from convatlas.data.tables.audit import audit_table
from convatlas.errors import ConvatlasError, DataError

ROUNDS, MANY_ROUNDS = 60, 1500


def npy(shape: tuple[int, ...], dtype: str = "<f8", data: bytes = b"") -> bytes:
    """A ``.npy`` file whose header claims what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((2**40, 2**10)), "its header claims"),
        (npy((4, -1)), "its header claims"),
        (npy((2, 2), "|O", b"cos\nsystem\n"), "holds Python objects, which are never loaded"),
        (npy((0, 3)), "has no rows"),
        (npy((3,), data=bytes(24)), r"must hold one array of rows, \[n, columns\]; there are X"),
        (npy((1, 10_001), "|u1", bytes(10_001)), "has 10,001 columns; up to 10,000 are taken"),
        (npy((2, 2), "|S8", bytes(32)), "must hold one array of rows"),
        (b"", "cannot be read"),
    ],
)  # fmt: skip
def test_what_a_header_claims_is_looked_at_before_memory_is_taken(content: bytes, message: str, tmp_path: Path) -> None:
    path = npz(tmp_path / "rows.npz", X=content)
    is_table(path)
    for read in (open_table, lambda path: list(read_chunks(path, 10))):
        with pytest.raises(DataError, match=message):
            read(path)


def test_zeros_that_unpack_to_gigabytes_are_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("X.npy", "w") as file:
        file.write(npy((2**20, 16)))
        for _ in range(128):
            file.write(bytes(2**20))
    with pytest.raises(DataError, match="refused as a bomb"):
        open_table(path)


def test_a_parquet_file_of_one_value_a_billion_times_is_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame(np.zeros((2**18, 50)), columns=[f"x{i}" for i in range(50)]).to_parquet(path)
    for read in (open_table, lambda path: list(read_chunks(path, 10))):
        with pytest.raises(DataError, match="refused as a bomb"):
            read(path)


def test_names_in_an_npz_are_only_believed_where_they_fit(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, X=np.zeros((3, 2)), columns=["a", "b", "c"], names=["a", "a"])
    with pytest.raises(DataError, match="columns of the same name: a"):
        open_table(path)


def test_many_arrays_are_not_all_looked_at(tmp_path: Path) -> None:
    path = npz(tmp_path / "rows.npz", **{f"a{i}": b"" for i in range(1001)})
    assert not is_table(path)
    with pytest.raises(DataError, match="holds 1,001 arrays"):
        open_table(path)


def use(path: Path) -> None:
    """All that is done to a stranger's table."""
    is_table(path)
    table = open_table(path, label="fraud")
    audit_table(table)
    anomalies = anomalies_in(table)
    parts = split_rows(table, anomalies, validation=0.1, calibration=0.2, test=0.2, seed=0)
    encoding = RowEncoding.fit(table.frame.iloc[parts.fit][list(table.inputs)])
    RowEncoding.model_validate_json(encoding.model_dump_json())
    for chunk in read_chunks(path, 50, text=encoding.text_columns):
        rows = encoding.encode(chunk)
        assert np.isfinite(rows).all()
        for column in range(len(encoding.names)):
            encoding.shown(chunk, 0, column)
            encoding.decode_column(rows[0], column)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The same with bytes changed, cut out, repeated or put in."""
    damage: list[Callable[[bytearray, int], None]] = [
        lambda data, at: data.__setitem__(at, draw.randrange(256)),
        lambda data, at: data.__setitem__(at, data[at] ^ 1 << draw.randrange(8)),
        lambda data, at: data.__delitem__(slice(at, at + draw.randrange(1, 40))),
        lambda data, at: data.__setitem__(slice(at, at), data[at : at + draw.randrange(1, 40)]),
        lambda data, at: data.__setitem__(slice(at, at), draw.choice(PIECES)),
        lambda data, at: data.__setitem__(slice(at, at + 4), draw.choice((b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4)))),
        lambda data, at: data.__delitem__(slice(at, None)),
    ]
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        if changed:
            draw.choice(damage)(changed, draw.randrange(len(changed)))
    return bytes(changed)


PIECES = (
    b",", b'"', b"\n", b"\r", b"\0", b"inf", b"1e999", b"-", b"NaN", b"\xff", b",,,", b"9" * 400, b"true", b"\n\n",
    b"\xef\xbb\xbf",
)  # fmt: skip


def fuzz(kind: str, folder: Path, seeds: range) -> None:
    frame = payments(rows=60, frauds=6)
    source = folder / f"rows.{kind}"
    if kind == "npz":
        file = io.BytesIO()
        inputs = frame[["seconds", "amount", "distance"]]
        np.savez(file, X=inputs.to_numpy(), fraud=frame["fraud"].to_numpy(), columns=list(inputs.columns))
        source.write_bytes(file.getvalue())
    else:
        written(frame, source)
    content = source.read_bytes()
    use(source)
    for seed in seeds:
        draw = random.Random(seed)
        source.write_bytes(damaged(content, draw))
        complaint = complaint_of(source, f"{kind}, seed {seed}")
        assert "\n" not in complaint, (kind, seed)
        assert len(complaint) < 500, (kind, seed)


def complaint_of(path: Path, what: str) -> str:
    """What is said of a table; nothing where all is well."""
    try:
        use(path)
    except ConvatlasError as error:
        return str(error)
    except BaseException as error:
        raise AssertionError(f"{what}: {error!r}") from error
    return ""


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz"])
def test_damage_anywhere_is_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "PIECE", 700)  # so that pieces meet everywhere
    fuzz(kind, tmp_path, range(ROUNDS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz"])
def test_much_damage_anywhere_is_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(kind, tmp_path, range(ROUNDS, MANY_ROUNDS))
    monkeypatch.setattr(delimited, "PIECE", 700)
    fuzz(kind, tmp_path, range(MANY_ROUNDS, 2 * MANY_ROUNDS))
