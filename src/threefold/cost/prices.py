"""The price table: TOML, dated, shipped with the package (prices.toml), to be replaced by the user's own. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from threefold.kernel.errors import BadInput

OWN: Final = "own"
_SCHEMES: Final = {"s3": "aws-s3", "gs": "gcs", "az": "azure"}
_ASK: Final = ("documented", "ask")


@dataclass(frozen=True, slots=True)
class Provider:
    """Prices of one store, in the table's currency; prices.toml says what each means.

    ``storage``: a GB (10^9 bytes) and month; requests: a million each; ``egress``, ``ingress``: a GB;
    ``machine``: a month.
    """

    key: str
    name: str
    storage: float
    put: float
    get: float
    list: float
    egress: float
    delete: float = 0.0
    ingress: float = 0.0
    free_egress: float = 0.0
    minimum_days: float = 0.0
    minimum_gb: float = 0.0
    machine: float = 0.0
    create_if_absent: str = "ask"
    endpoints: tuple[str, ...] = ()

    @property
    def may_vote(self) -> bool:
        """Whether it documents what protection rests on."""
        return self.create_if_absent == "documented"


@dataclass(frozen=True, slots=True)
class Prices:
    """The table. ``draas`` and ``standby`` are machines, a month each."""

    dated: date
    currency: str
    note: str
    draas: float
    standby: float
    providers: Mapping[str, Provider]

    def provider_of(self, label: str, url: str, endpoint: str | None) -> Provider:
        """Of a store in threefold.toml: by its ``provider``, else by its address; the rest is an own disk.

        Raises BadInput where the table lacks what that comes to.
        """
        wanted = label.strip().lower()
        if wanted in self.providers:
            return self.providers[wanted]
        if endpoint:
            known = (each for each in self.providers.values() if any(part in endpoint for part in each.endpoints))
            found = next(known, self.providers.get(OWN))
        else:
            found = self.providers.get(_SCHEMES.get(url.partition(":")[0], OWN))
        if found is None:
            raise BadInput(
                f"the price table has no entry for the store at {endpoint or url}",
                hint=f"add one, and name it as the store's provider; there are: {', '.join(self.providers)}",
            )
        return found


def parse_prices(text: str, where: str) -> Prices:
    """Raises BadInput, naming the line or key of ``where`` that is wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not valid TOML: {error}", hint=_HINT) from None
    dated = data.get("dated")
    if type(dated) is not date:
        raise BadInput(f"{where}: dated is missing or no date", hint="write the day the prices are of: 2026-11-30")
    tables = data.get("provider")
    if not isinstance(tables, dict) or not tables:
        raise BadInput(f"{where}: there is no [provider.NAME]", hint=_HINT)
    machines = data.get("machines", {})
    providers = {key: _provider(where, key, table) for key, table in tables.items()}
    return Prices(
        dated,
        str(data.get("currency", "USD")),
        str(data.get("note", "")),
        _number(where, "machines.draas", machines.get("draas", 0)),
        _number(where, "machines.standby", machines.get("standby", 0)),
        providers,
    )


_HINT: Final = "`threefold cost --write-prices FILE` writes one to begin with"
_TEXTS: Final = {"name", "create_if_absent", "endpoints"}
_REQUIRED: Final = {"name", "storage", "put", "get", "list", "egress"}


def _provider(where: str, key: str, table: Any) -> Provider:
    if not isinstance(table, dict):
        raise BadInput(f"{where}: provider.{key} is no table", hint=_HINT)
    known = {name for name in Provider.__slots__ if name != "key"}
    if unknown := sorted(table.keys() - known):
        raise BadInput(
            f"{where}: unknown key provider.{key}.{unknown[0]}", hint=f"known here: {', '.join(sorted(known))}"
        )
    if missing := sorted(_REQUIRED - table.keys()):
        raise BadInput(f"{where}: provider.{key}.{missing[0]} is missing", hint=_HINT)
    if table.get("create_if_absent", "ask") not in _ASK:
        raise BadInput(f"{where}: provider.{key}.create_if_absent is neither {' nor '.join(_ASK)}", hint=_HINT)
    numbers = {
        name: _number(where, f"provider.{key}.{name}", value) for name, value in table.items() if name not in _TEXTS
    }
    return Provider(
        key=key,
        name=str(table["name"]),
        create_if_absent=str(table.get("create_if_absent", "ask")),
        endpoints=tuple(str(each) for each in table.get("endpoints", ())),
        **numbers,
    )


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadInput(f"{where}: {name} is no price: {value!r}", hint="a price is a number, 0 or more")
    return float(value)
