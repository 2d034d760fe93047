"""Starts the server, waits, and stops it in good order.

One process, so that one kill -9 or SIGSTOP is the whole store's: an event loop for HTTP, one thread for the journal,
a few for large files. When the journal cannot go on (failed fdatasync, emptied folder), requests under way are told
5xx and the process ends: nothing is acknowledged by a server that does not know what its disk holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, Refused
from threefold.storage_server import credentials, s3
from threefold.storage_server.app import App, AppOptions
from threefold.storage_server.engine import Engine, EngineOptions
from threefold.storage_server.http import HEAD_TIMEOUT_S, Connection, Server
from threefold.storage_server.sigv4 import Credentials

_DRAIN_S = 5.0
_LAST_ANSWERS_S = 0.5
_BACKLOG = 512
_GC_THRESHOLD = 50_000
_SWITCH_INTERVAL_S = 0.0005  # the journal's thread waits no longer than this for the interpreter after a sync


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What one storage server is told.

    ``data_dir``: made where it is missing; one process owns it. ``host``, ``port``: port 0 takes a free one.
    ``credentials_file``: a line per key, ``ACCESS_KEY_ID SECRET_ACCESS_KEY``, mode 0600; None: from
    THREEFOLD_STORAGE_ACCESS_KEY_ID and THREEFOLD_STORAGE_SECRET_ACCESS_KEY. ``tls_cert``, ``tls_key``: PEM files,
    both or neither; without them only this machine is served, unless ``allow_http``: somebody between could answer
    "stored" in our place, which no signature of the client's shows. ``engine.min_free_bytes``: below it puts get 507;
    reads and deletes go on.
    Any region is accepted: the signature covers the one that the client names.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 9101
    credentials_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_http: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)
    app: AppOptions = field(default_factory=AppOptions)


def serve(
    config: ServeConfig,
    *,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    on_ready: Callable[[str, int], None] = lambda _host, _port: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then stop in good order and return.

    ``on_ready(host, port)`` is called once requests are answered, with the port that was taken.
    Raises BadInput (credentials, TLS files, address), Refused (another process owns the folder; no TLS), Damaged (the
    journal lost acknowledged records), Unavailable (the disk failed or the folder was emptied while serving): tell the
    user and exit with the error's code. Logs go to `logging` (never to stdout).
    """
    owners = (
        credentials.from_file(config.credentials_file)
        if config.credentials_file is not None
        else credentials.from_environment(os.environ if environment is None else environment)
    )
    tls = _tls(config)
    _raise_file_limit()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(config, owners, tls, clock or SystemClock(), on_ready))


def create_bucket(data_dir: Path, bucket: str, *, options: EngineOptions | None = None) -> bool:
    """Make a bucket in a folder that no server has open (`threefold init`); False: it was there. Makes the folder.

    Raises BadInput (not a bucket name), Refused (a server has it open: ask that one for the bucket), Damaged.
    """
    try:
        s3.check_bucket(bucket)
    except s3.S3Error as error:
        raise BadInput(error.message) from None

    async def make() -> bool:
        engine = Engine(data_dir, SystemClock(), options or EngineOptions())
        try:
            return await engine.make_bucket(bucket)
        finally:
            await engine.close()

    return asyncio.run(make())


async def _serve(
    config: ServeConfig,
    owners: Mapping[str, Credentials],
    tls: ssl.SSLContext | None,
    clock: Clock,
    on_ready: Callable[[str, int], None],
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(config.data_dir, clock, config.engine)
    engine.journal.on_failure = stop.set
    gc.freeze()  # the catalog is long-lived and without cycles: walking it again and again would stall commits
    gc.set_threshold(_GC_THRESHOLD)
    app = App(engine, owners, clock, config.app)
    server = Server(app, clock, app.at_once)
    try:
        try:
            listener = await loop.create_server(
                lambda: Connection(server, secure=tls is not None),
                config.host,
                config.port,
                ssl=tls,
                ssl_handshake_timeout=HEAD_TIMEOUT_S if tls else None,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise BadInput(
                f"cannot listen on {config.host}:{config.port}: {error.strerror}", hint="choose another --listen"
            ) from None
        watch = loop.create_task(server.watch())
        host, port = listener.sockets[0].getsockname()[:2]
        on_ready(host, port)
        await stop.wait()
        listener.close()
        await server.close(within_s=_DRAIN_S if engine.journal.failure is None else _LAST_ANSWERS_S)
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    finally:
        await engine.close()
    if engine.journal.failure is not None:
        raise engine.journal.failure


def _tls(config: ServeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None and config.tls_key is None:
        if not config.allow_http and not _is_loopback(config.host):
            raise Refused(
                f"without TLS nobody can tell who answers on {config.host}",
                hint="give it a certificate (--tls-cert, --tls-key), or say --allow-http where TLS ends before it",
            )
        return None
    if config.tls_cert is None or config.tls_key is None:
        raise BadInput("TLS needs a certificate and its key", hint="name both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"the TLS certificate {config.tls_cert} or its key cannot be used: {error}") from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _raise_file_limit() -> None:
    """Each journal file and each connection takes a descriptor."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
