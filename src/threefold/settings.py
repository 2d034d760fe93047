"""threefold.toml and the environment, read into frozen settings.

One TOML file says what is protected, where to, and with which key. Numbers and names are settings; clocks, stores
and keys are parts, made from settings in bootstrap.py alone. The environment wins over the file:
``THREEFOLD_SYSTEM__DSN`` overrides ``dsn`` of ``[system]``.

Secrets are given by reference (``env:NAME``, ``file:PATH``, relative to the file's folder) and read when they are
needed, so that settings can be shown and logged. An unknown key is an error: a misspelt ``durability`` must not
quietly become the default.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from threefold.kernel.errors import BadInput, Refused
from threefold.settings_cost import Cost
from threefold.settings_retention import Locks, Retention
from threefold.settings_values import (
    Duration,
    Name,
    Reference,
    Section,
    has_no_password,
    is_address,
    is_host_and_port,
    is_place,
)


class System(Section):
    """What is protected."""

    name: Name = Field(
        description="Names the log in the stores: several CRMs may share three stores. Lower case, digits, hyphens."
    )
    dsn: Annotated[str, AfterValidator(has_no_password)] = Field(
        description="How to reach the primary: libpq keywords or a postgresql:// address, of a role with REPLICATION "
        "and pg_monitor. Without a password; see `password`."
    )
    password: Reference | None = Field(
        default=None, description="The role's password, by reference. Absent: libpq looks into ~/.pgpass."
    )
    site: str = Field(default="", description="Where the primary is: its site's name, shown by status and list.")
    data_dir: Path | None = Field(
        default=None,
        description="The primary's data folder, on its own host. Only failback needs it: there this site is rebuilt.",
    )
    listen: Annotated[str, AfterValidator(is_host_and_port)] | None = Field(
        default=None,
        description="Where a PostgreSQL that is rebuilt here listens. Only failback needs it. Absent: as in `dsn`.",
    )
    durability: Literal["sync", "async"] = Field(
        default="sync",
        description="sync: a commit is confirmed when it is on two of three stores, so nothing confirmed is ever "
        "lost. async: a commit waits only until the DRaaS server has received it, and a disaster may take what the "
        "last max_lag brought.",
    )
    max_lag: Duration = Field(
        default=timedelta(seconds=1),
        description="Only for async: the longest a change may wait for two stores; then commits wait. A duration.",
    )


class Keys(Section):
    """What encrypts everything before it leaves."""

    master: Reference = Field(
        description="The key file: the 32-byte master key, and those that were in force before it. A site without this "
        "file opens the wrapped copy that lies in every store, with the passphrase or two of three shares."
    )
    wrapped: Reference | None = Field(
        default=None,
        description="The same keys, locked with the passphrase: `threefold protect` puts this into every store when "
        "the log is begun, and `threefold keys` keeps it up to date. Absent: `threefold keys rotate --passphrase` or "
        "`keys split` put a copy there; until then nothing can be recovered without this machine.",
    )


class Store(Section):
    """One of the three replication storage servers."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,30}$", description="S1, S2, S3: the name in every message.")
    url: Annotated[str, AfterValidator(is_place)] = Field(
        description="s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."
    )
    endpoint: Annotated[str, AfterValidator(is_address)] | None = Field(
        default=None, description="Address of an S3-compatible server. Absent: the provider's own."
    )
    access_key_id: Reference | None = Field(
        default=None,
        description="By reference; for az the storage account. Absent: the provider's own chain (instance role, "
        "environment).",
    )
    secret_access_key: Reference | None = Field(
        default=None, description="By reference; for az the account key, for gs the service account's JSON."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates to trust for this endpoint besides the system's own. A PEM file."
    )
    allow_http: bool = Field(
        default=False, description="Speak plain HTTP to another machine. To this machine it is always allowed."
    )
    replaces: str | None = Field(
        default=None,
        description="The name of the store whose place it is to take: `threefold protect` fills it, and then moves to "
        "it. Absent: it is one of the three.",
    )
    provider: str = Field(
        default="", description="Who runs it. Three stores of one provider and one region share a failure domain."
    )
    region: str = Field(default="", description="Where it stands; for S3 also the region that requests are signed for.")
    lock: bool = Field(
        default=True,
        description="Whether [locks] holds for this store. false: where it cannot lock single objects.",
    )

    @model_validator(mode="after")
    def _whole_credentials(self) -> Store:
        both = (self.access_key_id is None) == (self.secret_access_key is None)
        if not both and not self.url.startswith("gs:"):
            raise ValueError("access_key_id and secret_access_key go together")
        return self


class Recovery(Section):
    """Where the recovered database shall live."""

    site: str = Field(default="", description="Where recovery happens: that site's name.")
    standby: Literal["cold", "warm"] = Field(
        default="cold",
        description="cold: restored when asked for. warm: kept restored and ready; `threefold protect` starts "
        "`threefold standby` for it.",
    )
    data_dir: Path | None = Field(
        default=None, description="The recovered server's data folder, when --into is not given."
    )
    listen: Annotated[str, AfterValidator(is_host_and_port)] = Field(
        default="127.0.0.1:5433",
        description="Where the PostgreSQL of this site listens, as standby and when it serves.",
    )
    dsn: Annotated[str, AfterValidator(has_no_password)] | None = Field(
        default=None,
        description="How others reach the PostgreSQL of this site. Absent: the primary's dsn with the address of "
        "`listen`. The roles and their passwords are the primary's.",
    )
    binaries: Path | None = Field(
        default=None,
        description="Folder of PostgreSQL's programs. Absent: PATH, /usr/lib/postgresql, then the embedded ones.",
    )


class Failover(Section):
    """When the site is gone: who decides, and what waits meanwhile."""

    policy: Literal["automatic", "confirm", "manual"] = Field(
        default="confirm",
        description="automatic: the recovery site takes over by itself. confirm: it says that it should, and a person "
        "confirms with `threefold failover`. manual: it only says what it sees.",
    )
    stall: Duration = Field(
        default=timedelta(seconds=30),
        description="A primary whose host answers may stand still for that long before it is given up. A duration.",
    )
    process_gone: Duration = Field(
        default=timedelta(seconds=2),
        description="A primary whose host refuses connections is given up after that long. A duration.",
    )
    site_gone: Duration = Field(
        default=timedelta(seconds=8),
        description="A site that nobody sees any more is given up after that long. A duration.",
    )
    overdue: Duration = Field(
        default=timedelta(seconds=60),
        description="A switch that the recovery site's agent ordered by itself is abandoned when that agent has been "
        "silent for so long and the primary serves again. A duration.",
    )
    strict: bool = Field(
        default=True,
        description="After a switch, writes wait until they are on two of three stores again. false: they are taken at "
        "once, and until protection is back a second disaster loses them.",
    )
    without_quorum: Literal["block", "spool"] = Field(
        default="block",
        description="While fewer than two stores answer. block: commits wait. spool: they are kept on the DRaaS "
        "server's own disk and confirmed, declared beforehand as RPO > 0; a disaster meanwhile loses them.",
    )
    spool_dir: Path = Field(
        default=Path("spool"), description="Where the spool lies; on a disk that survives the DRaaS server's end."
    )
    spool_max_mib: int = Field(default=4096, ge=16, description="The most the spool may hold; then commits wait. MiB.")


@dataclass(frozen=True, slots=True)
class Site:
    """One of the two places where the PostgreSQL may serve."""

    name: str
    dsn: str  # without the password
    listen: str  # host:port
    data_dir: Path | None  # absolute


class Crm(Section):
    """Our own CRM, where it is used: `threefold crm serve`. Nothing else here depends on it."""

    listen: Annotated[str, AfterValidator(is_host_and_port)] = Field(
        default="127.0.0.1:8080", description="Where the CRM listens. To other machines only behind a proxy with TLS."
    )
    public_url: Annotated[str, AfterValidator(is_address)] = Field(
        default="http://localhost:8080",
        description="The address that people type. Passkeys and devices are bound to its host name, so the recovery "
        "site has to answer under the same one.",
    )
    dsn: Annotated[str, AfterValidator(has_no_password)] = Field(
        description="The CRM's own database, as the role that owns it. Several hosts may stand there: the one that "
        "takes writes is used."
    )
    password: Reference | None = Field(
        default=None, description="The role's password, by reference. Absent: libpq looks into ~/.pgpass."
    )
    site: str = Field(default="", description="Where this CRM runs: the name in the banner of every page.")
    connections: int = Field(default=10, ge=2, le=200, description="The most connections to the database.")
    trust_proxy: bool = Field(
        default=False, description="A proxy stands in front and sets X-Forwarded-For: believe it for rate limits."
    )
    erasures: Path = Field(
        default=Path("crm/erasures.jsonl"),
        description="The erasure ledger: which customers asked to be forgotten, ids and times only. Keep it apart from "
        "the database; it is replayed after every recovery.",
    )
    webhooks_to_private: bool = Field(
        default=False, description="Let webhooks go to private addresses. Anybody who may make one can then reach them."
    )


class _File(BaseSettings):
    """What every reader of threefold.toml shares: the environment wins, secrets are read when they are needed."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="THREEFOLD_", env_nested_delimiter="__", case_sensitive=False
    )

    folder: Path = Field(default=Path(), exclude=True)  # of the file; what relative paths are relative to

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def path(self, path: Path) -> Path:
        """Of a relative path: in the file's folder."""
        return self.folder / path.expanduser()

    def secret(self, reference: str) -> str:
        """What a reference stands for, read now, as text. Raises as `secret_bytes` does; never shows the secret."""
        return self.secret_bytes(reference).decode(errors="replace").strip()

    def secret_bytes(self, reference: str) -> bytes:
        """Raises BadInput for a secret that is not to be had, Refused for a file that others may read."""
        kind, _, rest = reference.partition(":")
        if kind == "env":
            value = os.environ.get(rest)
            if value is None:
                raise BadInput(f"the environment variable {rest} is not set", hint=f"the settings ask for {reference}")
            return value.encode()
        path = self.path(Path(rest))
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                secret = file.read()
        except OSError as error:
            raise BadInput(
                f"cannot read {path}: {(error.strerror or 'unknown reason').lower()}",
                hint=f"the settings ask for {reference}; relative paths start at {self.folder or '.'}",
            ) from None
        # Of the mode alone: root runs this on files of a service's user, who may read his own, and rightly so.
        if stat.S_IMODE(mode) & 0o077:
            raise Refused(
                f"others may read {path}, which the settings name as a secret",
                hint=f"chmod 600 {path}",
            )
        return secret


class CrmSettings(_File):
    """Of the same file only what the CRM needs: it may run on a machine that knows neither stores nor keys."""

    model_config = SettingsConfigDict(extra="ignore")

    crm: Crm


class Settings(_File):
    """The whole file. Frozen; made by `load`."""

    system: System
    keys: Keys
    store: tuple[Store, ...] = Field(
        min_length=3, max_length=4, description="Three; a fourth one that is to replace one of them."
    )
    recovery: Recovery = Recovery()
    failover: Failover = Failover()
    retention: Retention = Retention()
    locks: Locks = Locks()
    cost: Cost = Cost()
    crm: Crm | None = None

    @model_validator(mode="after")
    def _different_names(self) -> Settings:
        if len({s.name for s in self.store}) < len(self.store):
            raise ValueError("two stores have the same name")
        joining = [s for s in self.store if s.replaces]
        if len(joining) > 1:
            raise ValueError("two stores have `replaces`: one replacement at a time")
        if len(self.store) > 3 and (not joining or joining[0].replaces not in {s.name for s in self.store}):
            raise ValueError("exactly three [[store]] tables are needed; a fourth one `replaces` another, by its name")
        if any(s.replaces == s.name for s in joining):
            raise ValueError("a store cannot replace itself: give the new place a name of its own")
        return self

    @model_validator(mode="after")
    def _lockable(self) -> Settings:
        for store in self.store if self.locks.period else ():
            if store.lock and (not store.url.startswith("s3:") or store.access_key_id is None):
                raise ValueError(
                    f"objects on store {store.name} cannot be locked from here: that takes s3:// and keys written down "
                    "here; say lock = false for it, and see docs/howto/lock-the-copies.md"
                )
        return self

    @property
    def locked_stores(self) -> tuple[str, ...]:
        """Names of those whose copies are locked."""
        return tuple(store.name for store in self.store if store.lock) if self.locks.period else ()

    def sites(self) -> tuple[Site, Site]:
        """The primary's and the recovery site. Raises BadInput where their names do not tell them apart."""
        primary, recovery = self.system.site or "primary", self.recovery.site or "recovery"
        if primary == recovery:
            raise BadInput(
                f"[system] site and [recovery] site are both {primary!r}",
                hint="give the two sites names of their own: a switch goes from the one to the other",
            )
        at = conninfo_to_dict(self.system.dsn)
        host, _, port = self.recovery.listen.rpartition(":")
        home = self.system.listen or f"{at.get('host', '127.0.0.1')}:{at.get('port', 5432)}"
        return (
            Site(primary, self.system.dsn, home, self.path(self.system.data_dir) if self.system.data_dir else None),
            Site(
                recovery,
                self.recovery.dsn or make_conninfo(self.system.dsn, host=host, port=port),
                self.recovery.listen,
                self.path(self.recovery.data_dir) if self.recovery.data_dir else None,
            ),
        )

    def warnings(self) -> list[str]:
        """What is allowed and yet unwise."""
        found = []
        if self.locks.period and len(self.locked_stores) < 2:
            found.append(
                "copies are locked on fewer than two stores: what a locked store lacks for a moment is locked nowhere"
            )
        domains = {(s.provider, s.region) for s in self.store}
        if len(domains) > 1:
            return found
        provider, region = domains.pop()
        where = f"{provider or 'no provider given'}, {region or 'no region given'}"
        return [*found, f"all three stores are in one failure domain ({where}): one outage may take all of them"]


_Kind = TypeVar("_Kind", Settings, CrmSettings)


def load(path: Path) -> Settings:
    """Read, check and freeze. Raises BadInput, with the line or key that is wrong."""
    return _load(Settings, path)


def load_crm(path: Path) -> CrmSettings:
    """The CRM's part alone. Raises as `load` does."""
    return _load(CrmSettings, path)


def _load(kind: type[_Kind], path: Path) -> _Kind:
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(
            f"there is no {path}", hint="make one with `threefold init`, or name yours with --config FILE"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not valid TOML: {error}", hint="values of text need quotes") from None
    data["folder"] = path.resolve().parent
    try:
        return kind(**data)
    except ValidationError as error:
        raise _explain(path, error) from None


def _explain(path: Path, error: ValidationError) -> BadInput:
    """The first mistake, in the file's own words."""
    problem = error.errors(include_url=False, include_input=False)[0]
    loc = problem["loc"]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in loc)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return BadInput(f"{path}: unknown key {where}", hint=hint)
    if loc and loc[0] == "store" and problem["type"] in {"too_long", "too_short", "missing"} and len(loc) <= 2:
        return BadInput(
            f"{path}: exactly three [[store]] tables are needed",
            hint="two of three is what makes a change safe; docs/explanation/why-two-of-three.md",
        )
    if problem["type"] == "missing":
        return BadInput(f"{path}: {where} is missing", hint="docs/reference/configuration.md describes every key")
    message = problem["msg"].removeprefix("Value error, ")
    return BadInput(f"{path}: {where or 'settings'}: {message[:1].lower()}{message[1:]}")


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, str):
            model = section_of(model.model_fields[part])
    return [name for name, field in model.model_fields.items() if not field.exclude]


def section_of(field: FieldInfo) -> type[BaseModel]:
    """The section that a top-level field holds (one of three, for stores)."""
    annotation: Any = field.annotation
    section: type[BaseModel] = (get_args(annotation) or (annotation,))[0]
    return section
