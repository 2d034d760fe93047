"""What a CSV file's columns can be, and what is wrong with a cell: as conditions that PostgreSQL tries on all rows.

The rules are those of validating.py, set-wise: a hundred thousand rows are checked in one statement. A test holds the
two against each other. Cells arrive without blanks around them; an empty one is no value.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import Field, Kind, Type

IMPORTED: Final = ("accounts", "contacts", "products")
POLICIES: Final = ("refuse", "skip", "update", "create")  # where there is such a record already
KEYS: Final = {"accounts": "name", "contacts": "email", "products": "sku"}
YES: Final = ("true", "yes", "y", "1", "on", "t")
NO: Final = ("false", "no", "n", "0", "off", "f")

# What is no field itself but becomes one.
EXTRAS: Final[Mapping[str, tuple[Field, ...]]] = {
    "accounts": (),
    "contacts": (
        Field("first_name", label="First name"),
        Field("last_name", label="Last name"),
        Field("account", label="Account (by its name)"),
    ),
    "products": (Field("price", label="Price (like 12.50)", most=18),),
}
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "full_name": ("contact", "contact name", "customer"),
    "name": ("company", "company name", "account name", "product", "product name", "title"),
    "email": ("mail", "email address", "mail address"),
    "phone": ("telephone", "phone number", "tel", "mobile"),
    "role": ("job title", "position", "function"),
    "language": ("lang", "locale"),
    "first_name": ("firstname", "given name", "forename"),
    "last_name": ("lastname", "surname", "family name"),
    "account": ("company", "account name", "company name", "organisation", "organization"),
    "employees": ("staff", "size", "number of employees"),
    "website": ("url", "web", "homepage"),
    "industry": ("branch", "sector"),
    "country": ("country code",),
    "city": ("town",),
    "sku": ("article number", "item number", "product code"),
    "price": ("unit price", "amount"),
    "price_cents": ("price in cents",),
    "do_not_contact": ("opt out",),
}


def targets(kind: Kind) -> dict[str, Field]:
    """What a column can be mapped to."""
    if kind.name not in IMPORTED:
        raise Invalid(f"{kind.name} are not imported", {"kind": f"has to be one of {', '.join(IMPORTED)}"})
    fields = [field for field in kind.fields if not field.kept and field.type is not Type.ID]
    return {field.name: field for field in (*fields, *EXTRAS[kind.name])}


def words(kind: Kind) -> dict[str, tuple[str, ...]]:
    """By which names of columns a target is guessed."""
    labels = {name: () if name == "price_cents" else (field.title,) for name, field in targets(kind).items()}
    found = {name: (name, *labels[name], *_WORDS.get(name, ())) for name in targets(kind)}
    if kind.name == "contacts":
        found["full_name"] = (*found["full_name"], "name")
    return found


def check_mapping(kind: Kind, header: tuple[str, ...], mapping: Mapping[str, str], duplicates: str) -> None:
    """Raises Invalid: unknown columns or fields, one field twice, or none for what every record needs."""
    known = targets(kind)
    wrong = {}
    for column, target in mapping.items():
        if column not in header:
            wrong[column[:60]] = "the file has no such column"
        elif target not in known:
            wrong[column[:60]] = f"there is no field {target[:60]}; there are {', '.join(known)}"
    given = list(mapping.values())
    for target in sorted(set(given)):
        if given.count(target) > 1:
            wrong[target] = "two columns are mapped to it"
    if "full_name" in given and {"first_name", "last_name"} & set(given):
        wrong["full_name"] = "give this, or the first and the last name"
    if "price" in given and "price_cents" in given:
        wrong["price"] = "give this, or the price in cents"
    for target in required(kind):
        if target not in given and not any(other in given for other in _INSTEAD.get(target, ())):
            wrong.setdefault(target, "a column has to be mapped to it")
    if duplicates not in POLICIES:
        wrong["duplicates"] = f"has to be one of {', '.join(POLICIES)}"
    elif duplicates == "create" and kind.name == "products":
        wrong["duplicates"] = "a SKU is one product's: skip or update, or refuse"
    if wrong:
        raise Invalid("the columns cannot be read so", wrong, hint="see the fields")


_INSTEAD: Final = {"full_name": ("last_name", "first_name"), "price_cents": ("price",)}


def required(kind: Kind) -> list[str]:
    return [field.name for field in kind.fields if field.required]


def problems(kind: Kind, given: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """(target, condition that a bad row fulfils, what is wrong). ``s`` is the row, a column for each target."""
    for name, field in targets(kind).items():
        if name in given:
            yield from ((name, condition, what) for condition, what in _problems(field, f's."{name}"'))
    if "first_name" in given or "last_name" in given:
        both = " ".join(f"|| coalesce(s.\"{name}\", '')" for name in ("first_name", "last_name") if name in given)
        last = "last_name" if "last_name" in given else "first_name"
        yield last, f"('' {both}) = ''", "a name has to be given"
        yield last, f"length('' {both}) > 199", "the whole name has more than 200 characters"


def _problems(field: Field, cell: str) -> Iterator[tuple[str, str]]:
    filled = f"{cell} <> ''"
    if field.required:
        yield f"coalesce({cell}, '') = ''", "it has to be given"
    if field.type in (Type.TEXT, Type.LONG, Type.EMAIL):
        yield f"length({cell}) > {field.most}", f"it is longer than {field.most} characters"
        # One look for what hardly ever is there; PostgreSQL's class is wider than ours, so the line comes second.
        odd = r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"
        yield f"{cell} ~ '{odd}'", "it has a character in it that is none"
        if field.type is not Type.LONG:
            yield rf"{cell} ~ '[\n\r]'", "it has to be one line"
        if field.least:
            yield f"{filled} AND length({cell}) < {field.least}", f"it has to have {field.least} characters"
    if field.type is Type.EMAIL:
        part = '[^\\s@<>",;:]+'
        yield (
            f"""{filled} AND {cell} !~ '^{part}@{part}\\.[^\\s@<>",;:.]+$'""",
            "it has to be a mail address",
        )
    if field.name == "country":
        yield f"length({cell}) = 1", "it has to be a code of two letters"
    if field.type in (Type.INTEGER, Type.CENTS):
        number = f"CASE WHEN {cell} ~ '^[+-]?[0-9]{{1,18}}$' THEN {cell}::bigint END"
        yield f"{filled} AND {cell} !~ '^[+-]?[0-9]{{1,18}}$'", "it has to be a whole number"
        yield f"{number} NOT BETWEEN {field.least} AND {field.most}", f"it has to be from {field.least} to {field.most}"
    if field.type is Type.BOOLEAN:
        yield f"{filled} AND lower({cell}) NOT IN ({_listed(YES + NO)})", "it has to be yes or no"
    if field.name == "price":
        yield f"coalesce({cell}, '') = ''", "it has to be given"
        yield f"{filled} AND {cell} !~ '^[0-9]{{1,10}}([.,][0-9]{{1,2}})?$'", "it has to be an amount like 12.50"


def values(kind: Kind, given: frozenset[str]) -> dict[str, str]:
    """Column of the table -> what is put into it, for the columns that the file gives."""
    found = {name: _value(field, f's."{name}"') for name, field in targets(kind).items() if name in given}
    if "first_name" in given or "last_name" in given:
        parts = ", ".join(f"nullif(s.\"{name}\", '')" for name in ("first_name", "last_name") if name in given)
        found["full_name"] = f"concat_ws(' ', {parts})"
    if "price" in given:
        found["price_cents"] = "(replace(s.\"price\", ',', '.')::numeric * 100)::bigint"
    for name in EXTRAS[kind.name]:
        found.pop(name.name, None)
    return found


def _value(field: Field, cell: str) -> str:
    if field.type in (Type.INTEGER, Type.CENTS):
        return f"nullif({cell}, '')::{'bigint' if field.type is Type.CENTS else 'integer'}"
    if field.type is Type.BOOLEAN:
        return f"coalesce(lower({cell}) IN ({_listed(YES)}), false)"
    if field.type is Type.EMAIL:
        return f"lower({cell})"
    text = f"upper({cell})" if field.name in ("currency", "country") else cell
    default = str(field.default or "").replace("'", "''")
    return f"coalesce(nullif({text}, ''), '{default}')"


def keyed(kind: Kind, alias: str) -> tuple[str, str]:
    """(what an index of the kind finds a record by, what two have in common that are the same one)."""
    name = f'{alias}."{KEYS[kind.name]}"'
    if kind.name == "contacts":
        return f"crm.email_key({name})", f"lower({name})"
    if kind.name == "accounts":
        return f"crm.name_key({name})", f"crm.bare({name})"
    return name, name


def _listed(several: tuple[str, ...]) -> str:
    return ", ".join(f"'{each}'" for each in several)
