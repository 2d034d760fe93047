"""CSV as people's programs write it: what encoding, which delimiter, which column is which field, where a row is torn.

Nothing is guessed where a guess could change data without anybody noticing: a file that is not UTF-8, and does not
say what it is by its first bytes, is refused with the place that shows it; the caller may then name the encoding.
Rows are numbered as a spreadsheet numbers them: the header is row 1, a row with line breaks in a cell is one row.

Pure.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from threefold.crm.model.errors import Invalid

ENCODINGS: Final = ("utf-8", "utf-16", "cp1252", "latin-1")  # that a caller may name
DELIMITERS: Final = (",", ";", "\t", "|")
COLUMNS_MOST: Final = 100
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SAVE_AS = "save it as 'CSV UTF-8', or say which encoding it has"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may hold."""

    size: int = 32 * 2**20
    rows: int = 500_000
    cell: int = 20_000  # characters


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one row: who reads it fixes the cell and sends the file again. It never quotes the cell."""

    row: int
    column: str
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A file that could be read as a table; its rows have not been looked at yet."""

    text: str
    encoding: str
    delimiter: str
    header: tuple[str, ...]


def open_sheet(data: bytes, encoding: str = "", delimiter: str = "", limits: Limits | None = None) -> Sheet:
    """Raises Invalid where it is no table, or too large a one."""
    most = (limits or Limits()).size
    if len(data) > most:
        raise Invalid(f"the file has more than {most // 2**20} MiB", hint="split it into several")
    text, found = decode(data, encoding)
    if (at := text.find("\0")) >= 0:
        raise Invalid(
            f"line {text.count(chr(10), 0, at) + 1} holds a NUL character, so this is no CSV file", hint=_SAVE_AS
        )
    if not text.strip():
        raise Invalid("the file is empty", hint="its first row has to name the columns")
    if delimiter and delimiter not in DELIMITERS:
        raise Invalid("that is no delimiter", {"delimiter": "has to be one of , ; | or a tab"})
    delimiter = delimiter or sniff(text)
    header = tuple(name.strip() for name in next(_records(text, delimiter), []))
    _check_header(header)
    return Sheet(text, found, delimiter, header)


def decode(data: bytes, encoding: str = "") -> tuple[str, str]:
    """The text and the encoding it was in."""
    if data.startswith(_WIDE):  # before UTF-16, whose mark it begins with
        raise Invalid("the file is in UTF-32, which we do not read", hint=_SAVE_AS)
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if encoding and encoding not in ENCODINGS:
        raise Invalid("that encoding is not read", {"encoding": f"has to be one of {', '.join(ENCODINGS)}"})
    name = marked or encoding or "utf-8"
    if name == "utf-16" and not marked:
        name = "utf-16-le"
    try:
        return data.decode(name), name.removesuffix("-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        odd = data[error.start : error.start + 1].hex().upper()
        raise Invalid(
            f"the file is not {name.removesuffix('-sig')}: byte {odd} in line {line}", hint=_SAVE_AS
        ) from None


def sniff(text: str) -> str:
    """The delimiter that the header uses most, outside of quotes; a comma where there is but one column."""
    counts = dict.fromkeys(DELIMITERS, 0)
    quoted = False
    for character in text[:10_000]:
        if character == '"':
            quoted = not quoted
        elif not quoted and character in counts:
            counts[character] += 1
        elif not quoted and character in "\r\n" and any(counts.values()):
            break
    return max(counts, key=lambda delimiter: counts[delimiter])


def rows(sheet: Sheet, faults: list[Fault], limits: Limits | None = None) -> Iterator[tuple[int, list[str]]]:
    """Each row below the header with its number, as many cells as the header has. Faulty ones go to ``faults``.

    Empty rows are passed over. Raises Invalid where the file cannot be read on, or has too many rows.
    """
    most = limits or Limits()
    width = len(sheet.header)
    records = _records(sheet.text, sheet.delimiter)
    next(records)
    number = 1
    for number, cells in enumerate(records, 2):
        if number > most.rows + 1:
            raise Invalid(f"the file has more than {most.rows} rows", hint="split it into several")
        if not any(cells):
            continue
        if len(cells) != width:
            if any(cells[width:]):
                faults.append(Fault(number, "", f"has {len(cells)} cells, the header has {width}", _TORN))
                continue
            cells = (cells + [""] * width)[:width]  # noqa: PLW2901 - a row that lacks its empty last cells
        if len(max(cells, key=len)) > most.cell:
            long = next(index for index, cell in enumerate(cells) if len(cell) > most.cell)
            faults.append(Fault(number, sheet.header[long], f"has more than {most.cell} characters"))
            continue
        yield number, cells


_TORN = 'put cells that hold the delimiter, or a line break, into "quotes"'


def neutral(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; `plain` takes it back."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def guess(header: Sequence[str], words: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Column -> field, for the columns whose name is one of a field's ``words``; each field once."""
    known = {_bare(word): field for field, several in words.items() for word in several}
    found: dict[str, str] = {}
    for column in header:
        field = known.get(_bare(column))
        if field and field not in found.values():
            found[column] = field
    return found


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    # Line by line of the text that is there: StringIO would hold it once more, in four bytes a character.
    reader = csv.reader((line[0] for line in _LINE.finditer(text)), delimiter=delimiter, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        what = str(error)
        if "field limit" in what:
            what = "a cell without an end, or far too long"
        elif "expected after" in what:
            what = 'text after a closing quote: a quote within a cell is written ""'
        elif "unexpected end" in what:
            what = "a quote that is never closed"
        raise Invalid(f"line {reader.line_num} cannot be read: {what}", hint=_TORN) from None


def _check_header(header: Sequence[str]) -> None:
    if len(header) > COLUMNS_MOST:
        raise Invalid(f"the file has more than {COLUMNS_MOST} columns", hint="is the delimiter the right one?")
    if any(len(name) > 200 for name in header):
        raise Invalid("a column's name has more than 200 characters", hint="the first row has to name the columns")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise Invalid(f"the column '{twice[0]}' is there twice", hint="name each column once")
