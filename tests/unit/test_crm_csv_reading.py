"""CSV files as they come: encodings, delimiters, torn rows, and nothing guessed that could change data."""

from __future__ import annotations

import codecs
import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.crm.exchange.csv_reading import Fault, Limits, guess, neutral, open_sheet, plain, rows
from threefold.crm.model.errors import Invalid

TABLE = "name,city\nMüller,Köln\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (TABLE.encode(), ""),
        (codecs.BOM_UTF8 + TABLE.encode(), ""),
        (codecs.BOM_UTF8 + TABLE.encode(), "cp1252"),  # what the file says of itself counts
        (TABLE.encode("utf-16"), ""),
        (codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"), ""),
        (TABLE.encode("cp1252"), "cp1252"),
        (TABLE.replace("\n", "\r\n").encode(), ""),
        (TABLE.replace("\n", "\r").encode(), ""),
        (TABLE.replace(",", ";").encode(), ""),
        (TABLE.replace(",", "\t").encode(), ""),
        (('"name","city, or town"\n' + TABLE[10:]).encode(), ""),
    ],
)
def test_what_programs_write_is_read(data: bytes, encoding: str) -> None:
    sheet = open_sheet(data, encoding)
    assert len(sheet.header) == 2
    assert list(rows(sheet, [])) == [(2, ["Müller", "Köln"])]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (codecs.BOM_UTF8 + b" \n\n", "empty"),
        (TABLE.encode("cp1252"), "not utf-8: byte FC in line 2"),
        (TABLE.encode("utf-16-le"), "UTF|utf|NUL"),
        (TABLE.encode("utf-32"), "UTF-32"),
        (b"name,city\nA\0B,C\n", "line 2 holds a NUL"),
        (codecs.BOM_UTF16_LE + b"n\0a", "not utf-16"),
        (b'name,city\n"A"B,C\n', "line 2.*closing quote"),
        (b'name,city\n"A,C\n', "never closed"),
        (b"name,name\nA,B\n", "twice"),
        (b"," * 101, "100 columns"),
        (b'name\n"' + b"x" * 200_000 + b'"\n', "far too long"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not utf-8"),
    ],
)
def test_what_is_no_table_is_refused_and_says_why(data: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says) as raised:
        list(rows(open_sheet(data), []))
    assert raised.value.hint


def test_a_row_has_the_number_that_a_spreadsheet_gives_it() -> None:
    faults: list[Fault] = []
    text = 'name,city\n"two\nlines",X\n\nlast\n,\none,two,three\nok,fine,,\n'
    assert list(rows(open_sheet(text.encode()), faults)) == [
        (2, ["two\nlines", "X"]),
        (4, ["last", ""]),
        (7, ["ok", "fine"]),
    ]
    assert [(fault.row, fault.what) for fault in faults] == [(6, "has 3 cells, the header has 2")]


def test_too_much_is_refused() -> None:
    few = Limits(size=100, rows=2, cell=5)
    with pytest.raises(Invalid, match="MiB"):
        open_sheet(b"a\n" + b"x\n" * 100, limits=few)
    with pytest.raises(Invalid, match="more than 2 rows"):
        list(rows(open_sheet(b"a\nx\ny\nz\n"), [], few))
    faults: list[Fault] = []
    assert list(rows(open_sheet(b"a,b\nx,123456\ny,1\n"), faults, few)) == [(3, ["y", "1"])]
    assert (faults[0].row, faults[0].column) == (2, "b")
    assert "123456" not in faults[0].what


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=3, max_size=3)
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_is_read_back(table: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b", "c"], *table])
    read = [cells for _, cells in rows(open_sheet(out.getvalue().encode()), [])]
    assert read == [cells for cells in table if any(cells)]


@given(st.text(alphabet="'=+-@\t\r a1", max_size=6))
def test_no_cell_is_a_formula_and_none_is_lost(cell: str) -> None:
    assert plain(neutral(cell)) == cell
    assert not neutral(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
    if cell[:1] not in "'=+-@\t\r":
        assert neutral(cell) == cell


def test_columns_are_guessed_by_their_names_and_no_field_twice() -> None:
    words = {"email": ("email", "mail"), "full_name": ("full_name", "name")}
    assert guess(["E-Mail", "NAME", "Mail", "x"], words) == {"E-Mail": "email", "NAME": "full_name"}
