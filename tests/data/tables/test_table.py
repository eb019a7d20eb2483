from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_tables import payments, written

from convatlas.data.tables import delimited, is_table, open_table, read_chunks
from convatlas.errors import DataError


def csv_file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.TSV", "p.parquet"])
def test_a_file_gives_the_table_that_was_written(name: str, tmp_path: Path) -> None:
    frame = payments()
    table = open_table(written(frame, tmp_path / name), label="fraud", time="seconds")
    pd.testing.assert_frame_equal(table.frame, frame, check_dtype=False)
    assert (table.name, table.location) == ("p", str(tmp_path / name))
    assert (table.label, table.time, table.inputs) == ("fraud", "seconds", ("amount", "distance", "country"))


def test_a_dataframe_and_an_array_are_tables() -> None:
    frame = payments()
    table = open_table(frame, label="fraud")
    assert (table.name, table.location, len(table)) == ("rows", "memory", 400)
    assert table.inputs == ("seconds", "amount", "distance", "country")
    array = frame[["seconds", "amount"]].to_numpy()
    by_array = open_table(array)
    assert by_array.inputs == ("x1", "x2")
    assert np.array_equal(by_array.frame.to_numpy(), array)
    named = open_table(pd.DataFrame(array, columns=["x1", "x2"]))
    assert named.fingerprint == by_array.fingerprint != table.fingerprint
    changed = array.copy()
    changed[3, 1] += 1
    assert open_table(changed).fingerprint != named.fingerprint


def test_an_npz_gives_its_rows_with_the_columns_that_are_named(tmp_path: Path) -> None:
    rows, label = np.arange(12.0).reshape(4, 3), np.array([0, 0, 1, 0], dtype=np.int8)
    path = tmp_path / "rows.npz"
    np.savez(path, X=rows, y=label, columns=["a", "b", "c"])
    table = open_table(path, label="y")
    assert table.inputs == ("a", "b", "c")
    assert table.frame["y"].tolist() == [0, 0, 1, 0]
    assert np.array_equal(table.frame[["a", "b", "c"]].to_numpy(), rows)
    np.savez(path, rows.astype(">f4"), label.reshape(-1, 1))
    assert list(open_table(path).frame.columns) == ["x1", "x2", "x3", "arr_1"]
    np.savez(path, a=rows, b=rows)
    with pytest.raises(DataError, match=r"must hold one array of rows, \[n, columns\]; there are 2: a, b"):
        open_table(path)


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.parquet"])
def test_chunks_are_the_table_piece_by_piece(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "PIECE", 1000)
    frame = payments()
    chunks = list(read_chunks(written(frame, tmp_path / name), 64, text=("country",)))
    assert len(chunks) > 6
    assert max(map(len, chunks)) <= 64
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), frame, check_dtype=False)
    in_memory = list(read_chunks(frame, 64))
    assert [len(chunk) for chunk in in_memory] == [64] * 6 + [16]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_piece_by_piece_in_either_order(save: Any, order: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 3))
    save(tmp_path / "rows.npz", X=np.asarray(rows, order=order), y=np.arange(1000))
    pieces = list(read_chunks(tmp_path / "rows.npz", 130))
    assert [len(piece) for piece in pieces] == [130] * 7 + [90]
    assert pd.concat(pieces, ignore_index=True).equals(open_table(tmp_path / "rows.npz").frame)
    assert np.array_equal(np.concatenate([piece[["x1", "x2", "x3"]] for piece in pieces]), rows)


def test_an_array_that_is_damaged_far_down_is_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((1000, 30)))
    content = bytearray((tmp_path / "rows.npz").read_bytes())
    content[200_000] ^= 1
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC"):
        list(read_chunks(tmp_path / "rows.npz", 100))


def test_images_are_no_table(tmp_path: Path) -> None:
    images, rows = tmp_path / "images.npz", tmp_path / "rows.npz"
    np.savez(images, images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros((4, 1), np.int64))
    np.savez(rows, X=np.zeros((4, 3)), y=np.zeros(4))
    assert not is_table(images)
    assert is_table(rows)
    assert is_table(str(rows))
    assert is_table(payments())
    assert not any(map(is_table, ("digits", "photos.zip", tmp_path, 3, None, np.zeros((2, 2, 2)))))
    assert all(map(is_table, ("no-such.npz", "no-such.csv", "P.CSV.GZ", Path("x.parquet"))))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    assert not is_table(tmp_path / "broken.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n\n", "is empty"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 field, and the header names 2"),
        ("a,b\n1,2\n\n3,4\n", "line 3 has 1 field, and the header names 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 fields, and the header names 2"),
        ('a,b\n"x\ny",2\n3\n', "line 4 has 1 field, and the header names 2"),
        ("a,b,a\n1,2,3\n", "columns of the same name: a. Rename them"),
        ("1,2\n3,4\n", "has no header"),
        ("a,b\n1,\0\n", "NUL bytes"),
        (b"\xff\xfea\0,\0b\0\n\0", "UTF-16"),
        ("a,b\nZürich,2\nB\xe4le,3\n".encode("latin-1"), "line 2: byte 0xfc is no UTF-8"),
        ('a,b\n1,"2\n3,4\n', "line 2"),
        ("a,b\r1,2\r", "carriage returns alone"),
        ("a\x1b[2J,b\n1,2\n", "is no name for a column"),
        ("a" * 300 + ",b\n1,2\n", "is no name for a column"),
        (",".join(f"c{i}" for i in range(10_001)) + "\n", "has 10,001 columns; up to 10,000 are taken"),
        ("a,b\n1,2\n3\r,4\n", "line"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_text_file_is_said_with_its_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "rows.csv", text)
    with pytest.raises(DataError, match=message) as error:
        open_table(path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=message):
        list(read_chunks(path, 100))


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("a;b\n1;2\n", ["a", "b"], [[1, 2]]),
        ("a\tb\n1\t2\n", ["a", "b"], [[1, 2]]),
        ('a,b\n1,"x, ""y""\nz"\n', ["a", "b"], [[1, 'x, "y"\nz']]),
        ('a,b\n1,5" pipe\n2,plain\n', ["a", "b"], [[1, '5" pipe'], [2, "plain"]]),
        ("\ufeffa,b\r\n1,2\r\n\r\n", ["a", "b"], [[1, 2]]),
        (",b\n0,2\n1,3", ["unnamed 1", "b"], [[0, 2], [1, 3]]),
        ("a\n1\n2\n", ["a"], [[1], [2]]),
        ('"a, b",c\n1,2\n', ["a, b", "c"], [[1, 2]]),
        ("a,b\n007,NA\nx,\n", ["a", "b"], [["007", None], ["x", None]]),
    ],
)  # fmt: skip
def test_text_files_as_people_have_them(text: str, columns: list[str], values: list[list[Any]], tmp_path: Path) -> None:
    frame = open_table(csv_file(tmp_path / "rows.csv", text)).frame
    assert list(frame.columns) == columns
    assert frame.astype(object).where(frame.notna(), None).to_numpy().tolist() == values


def test_a_column_that_is_text_far_down_is_text_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "PIECE", 100)
    values = ["007", *map(str, range(200)), "x", "True"]
    path = csv_file(tmp_path / "rows.csv", "a,b,c\n" + "".join(f"{value},{i},true\n" for i, value in enumerate(values)))
    frame = open_table(path).frame
    assert frame["a"].tolist() == values
    assert frame["b"].tolist() == list(range(203))
    assert set(frame["c"]) == {"true"}


def test_columns_asked_for_as_text_are_text(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "rows.csv", "code,n\n007,1\n010,2\n")
    assert open_table(path, text=("code",)).frame["code"].tolist() == ["007", "010"]
    assert next(read_chunks(path, 10, text=("code", "no such"))).to_numpy().tolist() == [["007", 1], ["010", 2]]


@given(st.lists(st.lists(st.text("abc\"',;\n\r é=0", max_size=5), min_size=2, max_size=2), min_size=1, max_size=8))
def test_any_texts_come_back_as_they_were_written(rows: list[list[str]]) -> None:
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["a", "b"], *rows])
        frame = open_table(path, text=("a", "b")).frame
        assert frame.fillna("").to_numpy().tolist() == rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "there is nothing at"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "it is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, socket or device"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.parquet", "rows.npz"])
def test_what_is_no_file_is_one_line(name: str, make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    for read in (open_table, lambda path: list(read_chunks(path, 10))):
        with pytest.raises(DataError) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
        assert message in str(error.value) or name.endswith("npz")


@pytest.mark.parametrize("source", [3, None, [1, 2], b"rows.csv", {"a": [1]}])
def test_what_is_no_table_is_said(source: Any) -> None:
    with pytest.raises(DataError, match=r"a table is a .csv, .parquet or .npz file"):
        open_table(source)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), r"must be numbers, \[n, columns\]; received float64 \[3\]"),
        (np.array([["a"]]), "must be numbers"),
        (np.array([[object()]]), "must be numbers"),
        (np.zeros((2, 2), complex), "must be numbers"),
        (np.zeros((0, 2)), "has no rows"),
        (np.zeros((2, 0)), "has no columns"),
    ],
)
def test_arrays_that_are_no_table_are_refused(array: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_table(array)


def test_a_column_that_there_is_not_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = written(payments(), tmp_path / "p.csv")
    with pytest.raises(DataError, match="has no column 'farud'; did you mean fraud"):
        open_table(path, label="farud")
    with pytest.raises(DataError, match="has no column 'zzz'; it has seconds, amount, distance, country, fraud"):
        open_table(path, time="zzz")
    with pytest.raises(DataError, match="both the label and the time"):
        open_table(path, label="fraud", time="fraud")
    with pytest.raises(DataError, match="no column beside"):
        open_table(payments()[["fraud"]], label="fraud")


def test_a_dataframe_of_lists_is_refused() -> None:
    with pytest.raises(DataError, match="column 'a' holds what is neither number nor text"):
        open_table(pd.DataFrame({"a": [[1], [2]]}))


def test_a_text_file_and_its_packed_copy_are_the_same_content(tmp_path: Path) -> None:
    plain = written(payments(), tmp_path / "p.csv")
    packed = tmp_path / "q.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert open_table(plain).fingerprint == open_table(packed).fingerprint


def test_a_packed_file_that_is_cut_short_or_a_bomb_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(written(payments(), tmp_path / "p.csv").read_bytes())
    path = tmp_path / "q.csv.gz"
    for damaged in (whole[: len(whole) // 2], whole[:40] + b"????" + whole[44:], b"a,b\n1,2\n"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked"):
            open_table(path)
    with gzip.open(path, "wb") as file:
        for _ in range(80):
            file.write(b"a,1\n" * 2**18)
    with pytest.raises(DataError, match="refused as a bomb"):
        list(read_chunks(path, 1000))


def test_a_line_without_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "PIECE", 1000)
    for rest in ("1," * 5000, '"' + "x,\n" * 5000, "\n" * 5000 + "1,2"):
        path = csv_file(tmp_path / "rows.csv", "a,b\n" + rest)
        with pytest.raises(DataError, match=r"a line of more than|line|quot"):
            open_table(path)


def test_nested_columns_of_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "nested.parquet"
    pd.DataFrame({"a": [1, 2], "b": [[1], [2, 3]]}).to_parquet(path)
    with pytest.raises(DataError, match="column 'b' holds list"):
        open_table(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(payments(), tmp_path / "p.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'convatlas\[parquet\]'"):
        open_table(path)


def test_the_room_is_entered_without_torch_or_pandas() -> None:
    script = "import sys, convatlas.data.tables; print({'torch', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
