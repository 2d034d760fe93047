"""Who may do what: the table read as people would say it; and the API's document held against what it promises."""

from __future__ import annotations

from itertools import product

import pytest

from threefold.crm.api import document
from threefold.crm.api.operations import OPERATIONS
from threefold.crm.api.params import COMPARED
from threefold.crm.model import asking, rules
from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.errors import Forbidden, Invalid
from threefold.crm.model.kinds import COMMON, KINDS, Kind, Type
from threefold.crm.model.rules import Operation, Verdict, verdict
from threefold.kernel.errors import NotThere

CUSTOMER = Actor(Role.CUSTOMER)
SAMPLE = {
    Type.TEXT: "x",
    Type.LONG: "x",
    Type.EMAIL: "a@b.example",
    Type.INTEGER: "1",
    Type.CENTS: "1",
    Type.BOOLEAN: "true",
    Type.ID: "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11",
    Type.IDS: "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11",
    Type.TIME: "2026-11-24T15:18:08Z",
    Type.DATE: "2026-11-24",
}
ALL_COMPARED = sorted({by for several in COMPARED.values() for by in several})


def test_a_customer_is_never_told_that_something_is_forbidden() -> None:
    kinds = ("", *KINDS)
    verdicts = {verdict(Role.CUSTOMER, operation, kind) for operation, kind in product(Operation, kinds)}
    assert verdicts == {Verdict.ALLOWED, Verdict.HIDDEN}


def test_what_customers_may() -> None:
    allowed = {
        (operation.value, kind)
        for operation, kind in product(Operation, ("", *KINDS))
        if rules.allows(CUSTOMER, operation, kind)
    }
    assert allowed == {
        *(("read", kind) for kind in ("contacts", "queries", "requests", "interactions", "products", "prices")),
        *(("create", kind) for kind in ("queries", "requests", "interactions")),
        *((what, kind) for what in ("answer", "rate", "attach") for kind in ("queries", "requests")),
        *((what, "") for what in ("search", "self", "attach")),
    }


def test_employees_may_all_but_what_is_for_administrators() -> None:
    employee = Actor(Role.EMPLOYEE)
    assert rules.allows(employee, Operation.CHANGE, "deals")
    assert rules.allows(employee, Operation.READ, "users")
    for kind in ("users", "teams", "policies"):
        for operation in (Operation.CREATE, Operation.CHANGE, Operation.DELETE, Operation.BULK):
            with pytest.raises(Forbidden):
                rules.check(employee, operation, kind)
    for operation in (Operation.ERASE, Operation.ADMINISTER):
        with pytest.raises(Forbidden):
            rules.check(employee, operation)
    with pytest.raises(NotThere):
        rules.check(CUSTOMER, Operation.CHANGE, "queries")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_document_promises_exactly_the_filters_that_there_are(kind: Kind) -> None:
    listing = document()["paths"][f"/api/v1/{kind.name}"]["get"]["parameters"]
    filters = next(one for one in listing if one.get("name") == "filter")["schema"]["properties"]
    for field in (*COMMON, *kind.fields):
        value = field.choices[0] if field.choices else SAMPLE[field.type]
        for by in ALL_COMPARED:
            try:
                asking.parse(kind, [(field.name + by, value)])
                taken = True
            except Invalid:
                taken = False
            assert taken == (field.name + by in filters), field.name + by
        assert asking.parse(kind, [(f"{field.name}.empty", "true")]).filters
        assert f"{field.name}.empty" in filters
    sorts = next(one for one in listing if one.get("name") == "sort")["schema"]["enum"]
    for field in (*COMMON, *kind.fields):
        assert (field.name in sorts) == (asking.unsortable(kind, field.name) == "")


def test_every_operation_says_who_may_and_what_it_answers() -> None:
    told = document()
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))
    open_to_all = [operation.name for operation in OPERATIONS if operation.needs is None]
    assert open_to_all == ["openapi"]
    for path, item in told["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            assert any(status.startswith("2") for status in operation["responses"]), (method, path)
            if operation["operationId"] == "openapi":
                continue
            assert {"400", "401", "403", "404", "422", "429", "503"} <= operation["responses"].keys(), (method, path)
            said = {one.get("$ref", "").rpartition("/")[2] for one in operation["parameters"]}
            if method in ("patch", "delete") or method == "post":
                assert "Idempotency-Key" in said or operation["operationId"] == "runImport", (method, path)
            if method == "patch":
                assert "If-Match" in said, (method, path)
                assert {"412", "428"} <= operation["responses"].keys()
