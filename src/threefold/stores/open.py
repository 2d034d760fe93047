"""From what the operator wrote to a store that can be asked.

| url | access_key_id | secret_access_key | endpoint |
|---|---|---|---|
| ``s3://bucket/prefix`` | access key id | secret key | of the server; for AWS none, but a region |
| ``gs://bucket/prefix`` | not used | service account key, the JSON text | none |
| ``az://container/prefix`` | storage account | account key | none; Azurite's |

Without a secret the provider's own chain is used (instance role, environment, managed identity). With one, nothing
of the environment is: three stores at three providers must not all end up at the AWS_ENDPOINT_URL, or with the
AWS_SESSION_TOKEN, of one of them, or unsigned through AWS_SKIP_SIGNATURE.

Buckets are not created here: who owns a bucket has chosen its region, its lock and its lifecycle.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput
from threefold.stores.remote import RemoteStore
from threefold.stores.s3_create import S3Creates
from threefold.stores.s3_lock import S3Locks
from threefold.stores.store import ObjectStore

_URL_HINT = "a store's url reads like s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*(/[A-Za-z0-9_][A-Za-z0-9._=-]*)*")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """One ``[[store]]`` of the configuration, references to secrets already resolved."""

    name: str  # S1, S2, S3
    url: str
    endpoint: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    region: str = ""
    ca_file: Path | None = None  # certificates (PEM) trusted besides the system's own
    provider: str = ""  # label of the failure domain, nothing else
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # sent with every request; may hold secrets
    allow_http: bool = False  # plain HTTP to other machines too; to this machine it is always allowed
    log_timeout: float = 5.0  # seconds for a small request: a store that takes longer is left behind, not waited for
    lock_mode: str = "COMPLIANCE"  # or GOVERNANCE: of the retention locks that are made
    bulk_timeout: float = 60.0  # seconds for a pack or a segment (16 MiB at 2.3 Mbit/s)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store keeps its objects, written in one way only."""

    scheme: str
    host: str  # with port; the provider's own name where no endpoint was given
    bucket: str
    prefix: str


def place_of(config: StoreConfig) -> Place:
    """Raises BadInput, without repeating a url that may hold a password."""
    url = _split(config, "url", config.url)
    if url.scheme not in {"s3", "gs", "az"}:
        raise BadInput(f"store {config.name} has no url of a kind that is known", hint=_URL_HINT)
    if url.query or url.fragment or "@" in url.netloc or ":" in url.netloc:
        raise BadInput(
            f"the url of store {config.name} has more than a bucket and a prefix",
            hint="keys belong in access_key_id and secret_access_key, an address in endpoint",
        )
    prefix = url.path.strip("/")
    if not _BUCKET.fullmatch(url.netloc) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise BadInput(f"the url of store {config.name} names no valid bucket and prefix", hint=_URL_HINT)
    return Place(url.scheme, _host(config, url.scheme), url.netloc, prefix)


def same_place(a: StoreConfig, b: StoreConfig) -> bool:
    """Whether two stores would share objects: the same bucket, and one prefix equal to or inside the other."""
    one, other = place_of(a), place_of(b)
    if (one.scheme, one.host, one.bucket) != (other.scheme, other.host, other.bucket):
        return False
    short, long = sorted((f"{one.prefix}/".lstrip("/"), f"{other.prefix}/".lstrip("/")), key=len)
    return long.startswith(short)


def open_store(config: StoreConfig) -> ObjectStore:
    """Raises BadInput for what cannot be meant; connects to nothing yet."""
    place = place_of(config)
    try:
        client = _CLIENTS[place.scheme](config, place)
    except (BaseError, ValueError):  # their texts may repeat a key
        raise BadInput(
            f"store {config.name} cannot be opened with these settings",
            hint="check access_key_id, secret_access_key, endpoint, and that ca_file holds PEM certificates",
        ) from None
    direct = _direct(config, place)
    return RemoteStore(
        config.name,
        client,
        prefix=place.prefix,
        log_timeout=config.log_timeout,
        bulk_timeout=config.bulk_timeout,
        creates=S3Creates(**direct, clock=SystemClock()) if direct else None,
        locks=S3Locks(**direct, clock=SystemClock(), mode=config.lock_mode) if direct else None,
    )


def _direct(config: StoreConfig, place: Place) -> dict[str, Any] | None:
    """For requests that are spoken here, where they can be: S3, fixed keys, nothing between us and the server."""
    if place.scheme != "s3" or not config.access_key_id or config.secret_access_key is None or config.headers:
        return None
    endpoint = _endpoint(config)
    url = urlsplit(endpoint)
    if url.path.strip("/") or url.scheme not in _PORTS or getproxies().get(url.scheme):
        return None
    tls = None
    if url.scheme == "https":
        tls = ssl.create_default_context()
        if config.ca_file is not None:
            tls.load_verify_locations(config.ca_file)
    elif not _may_speak_http(config):
        return None
    return {
        "endpoint": endpoint,
        "bucket": place.bucket,
        "region": _region(config),
        "access_key_id": config.access_key_id,
        "secret_access_key": config.secret_access_key,
        "tls": tls,
    }


def _s3(config: StoreConfig, place: Place) -> S3Store:
    if config.endpoint is None and not config.region:
        raise BadInput(
            f"store {config.name} has neither endpoint nor region",
            hint='region = "eu-central-1" for AWS; endpoint = "https://..." for any other server',
        )
    settings: dict[str, Any] = {
        "region": _region(config),
        "endpoint": _endpoint(config),
        "skip_signature": False,
    }
    if config.secret_access_key is not None:
        key, secret = config.access_key_id or "", config.secret_access_key
        settings["credential_provider"] = lambda: {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": None,
            "expires_at": None,
        }
    return S3Store(place.bucket, **settings, **_options(config))


def _region(config: StoreConfig) -> str:
    return config.region or "us-east-1"  # what servers other than AWS expect to be signed


def _endpoint(config: StoreConfig) -> str:
    return config.endpoint or f"https://s3.{_region(config)}.amazonaws.com"


def _gs(config: StoreConfig, place: Place) -> GCSStore:
    settings: dict[str, Any] = {"base_url": config.endpoint} if config.endpoint else {}
    if config.secret_access_key is not None:
        settings["service_account_key"] = config.secret_access_key
    return GCSStore(place.bucket, config=settings, **_options(config))  # type: ignore[arg-type]  # built by parts


def _az(config: StoreConfig, place: Place) -> AzureStore:
    settings: dict[str, Any] = {"account_name": config.access_key_id} if config.access_key_id else {}
    if config.secret_access_key is not None:
        settings |= {"account_key": config.secret_access_key, "skip_signature": False}
    if config.endpoint is not None:
        settings["endpoint"] = config.endpoint
    return AzureStore(place.bucket, **settings, **_options(config))


_CLIENTS: dict[str, Callable[[StoreConfig, Place], S3Store | GCSStore | AzureStore]] = {"s3": _s3, "gs": _gs, "az": _az}


def _options(config: StoreConfig) -> dict[str, Any]:
    client: dict[str, Any] = {
        "allow_http": _may_speak_http(config),
        "connect_timeout": timedelta(seconds=config.log_timeout),
        "timeout": timedelta(seconds=config.bulk_timeout),
    }
    if config.headers:
        client["default_headers"] = dict(config.headers)
    if config.ca_file is not None:
        try:
            client["root_certificate"] = config.ca_file.read_bytes()
        except OSError as error:
            raise BadInput(
                f"the ca_file of store {config.name} cannot be read: {error.strerror}",
                hint=f"looked at {config.ca_file}",
            ) from None
    return {"client_options": client, "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)}}


def _may_speak_http(config: StoreConfig) -> bool:
    if config.endpoint is None or config.allow_http:
        return config.allow_http
    url = _split(config, "endpoint", config.endpoint)
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        raise BadInput(
            f"store {config.name} would be spoken to in the clear",
            hint="use https:// (ca_file names a private authority), or say allow_http = true",
        )
    return url.scheme == "http"


def _host(config: StoreConfig, scheme: str) -> str:
    account = f"{config.access_key_id}." if scheme == "az" else ""
    if config.endpoint is None:
        return f"{account}{scheme}"
    url = _split(config, "endpoint", config.endpoint)
    try:
        port = url.port or _PORTS[url.scheme]
    except (KeyError, ValueError):
        port = 0
    host = (url.hostname or "").rstrip(".")
    if not port or not host or url.query or url.fragment or "@" in url.netloc:
        raise BadInput(
            f"the endpoint of store {config.name} is not an address", hint='it reads like "https://s1.example:9101"'
        )
    if scheme == "s3" and re.search(r"\.amazonaws\.com(\.cn)?$", host):
        return scheme  # bucket names are unique across AWS, whatever region is asked
    return f"{account}{'loopback' if _is_loopback(host) else host}:{port}"


def _split(config: StoreConfig, what: str, text: str) -> SplitResult:
    try:
        return urlsplit(text.strip())
    except ValueError:
        raise BadInput(f"the {what} of store {config.name} cannot be read", hint=_URL_HINT) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
