"""Real object stores in processes of their own, on loopback, for tests.

Each starter is a context manager that yields a `Server`: how to reach it, and its process. Nothing is downloaded but
Azurite, SeaweedFS (seaweedfs.py) and rclone, once (products.py).

A store that runs elsewhere (Ceph, MinIO, a bucket at a provider) joins the suite by the environment: `real`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path

from tests.conformance import products
from tests.conformance.products import Missing

from threefold.storage_server.credentials import ENV_KEY, ENV_SECRET
from threefold.storage_server.serve import create_bucket
from threefold.stores.open import StoreConfig, open_store
from threefold.stores.store import ObjectStore, Page

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = base64.b64encode(b"a key that only loopback ever sees").decode()


_REAL = "THREEFOLD_TEST_STORE_"

# All that keep what is asked of a store. `real` is among them where the environment names it.
GOOD = ("azurite", "own", "seaweedfs", *(("real",) if os.environ.get(f"{_REAL}URL") else ()))


@dataclass(frozen=True)
class Server:
    config: StoreConfig
    port: int
    process: subprocess.Popen[bytes] | None  # None: not ours

    def through(self, port: int) -> StoreConfig:
        """The same store by way of another port of this machine: a proxy's."""
        assert self.config.endpoint is not None
        return replace(self.config, endpoint=self.config.endpoint.replace(f":{self.port}", f":{port}"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(argv: list[str], port: int, *, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The process, once its port answers; killed at the end."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | (env or {}))
        try:
            give_up = time.monotonic() + 30
            while True:
                with socket.socket() as link:
                    if link.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None or time.monotonic() > give_up:
                    log.seek(0)
                    raise Missing(f"{argv[0]} did not start: {log.read()[-400:].decode(errors='replace')}")
                time.sleep(0.03)
            yield process
        finally:
            process.kill()
            process.wait()


class Azurite:
    """Azure Blob Storage's emulator on a folder; `kill` and `start` again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._main = products.azurite()
        self._folder = folder
        self._up = ExitStack()
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = ["node", str(self._main), "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        argv += ["-l", str(self._folder), "--silent", "--disableTelemetry"]
        accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
        self.process = self._up.enter_context(running(argv, self.port, env=accounts))
        _create_container(self.port, "crm-dr")

    def kill(self) -> None:
        """With -9: what it took in the last seconds is forgotten."""
        self._up.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"


@contextmanager
def azurite() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Azurite(Path(folder))
        try:
            server.start()
            config = StoreConfig(
                name="azurite",
                url="az://crm-dr/threefold/crm",
                endpoint=server.endpoint,
                access_key_id=ACCOUNT,
                secret_access_key=ACCOUNT_KEY,
            )
            assert server.process is not None
            yield Server(config, server.port, server.process)
        finally:
            server.kill()


_SERVE = """
import sys
from pathlib import Path
from threefold.storage_server.serve import ServeConfig, serve
folder, port, *tls = sys.argv[1:]
cert, key = map(Path, tls) if tls else (None, None)
serve(ServeConfig(data_dir=Path(folder), port=int(port), tls_cert=cert, tls_key=key))
"""


@contextmanager
def own(tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Our own storage server; ``tls``: certificate and key."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        create_bucket(Path(folder), "crm-dr")
        argv = [sys.executable, "-c", _SERVE, folder, str(port), *map(str, tls or ())]
        keys = {ENV_KEY: "key", ENV_SECRET: "only loopback sees it"}
        with running(argv, port, env=keys) as process:
            config = StoreConfig(
                name="own",
                url="s3://crm-dr/threefold/crm",
                endpoint=f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                access_key_id="key",
                secret_access_key=keys[ENV_SECRET],
            )
            yield Server(config, port, process)


@contextmanager
def rclone() -> Iterator[Server]:
    """An S3 server that ignores ``If-None-Match``: must never vote."""
    program = str(products.rclone())
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "crm-dr").mkdir()
        argv = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, folder]
        # The key pair goes by the environment: arguments are for everyone to see.
        with running(argv, port, env={"RCLONE_AUTH_KEY": '"key,secret"'}) as process:
            config = StoreConfig(
                name="rclone",
                url="s3://crm-dr/threefold/crm",
                endpoint=f"http://127.0.0.1:{port}",
                access_key_id="key",
                secret_access_key="secret",
            )
            yield Server(config, port, process)


@contextmanager
def real() -> Iterator[Server]:
    """The store that THREEFOLD_TEST_STORE_URL names, the other settings of a [[store]] in variables like it.

    CONTRIBUTING.md lists them. Its objects lie under a prefix of this run, and are removed at the end.
    """
    said = {
        name: os.environ.get(f"{_REAL}{name.upper()}") for name in ("endpoint", "access_key_id", "secret_access_key")
    }
    ca_file = os.environ.get(f"{_REAL}CA_FILE")
    config = StoreConfig(
        name="real",
        url=f"{os.environ[f'{_REAL}URL'].rstrip('/')}/threefold-test-{uuid.uuid4().hex}",
        region=os.environ.get(f"{_REAL}REGION", ""),
        ca_file=Path(ca_file) if ca_file else None,
        allow_http=bool(os.environ.get(f"{_REAL}ALLOW_HTTP")),
        **said,
    )
    try:
        yield Server(config, 0, None)
    finally:
        asyncio.run(_emptied(open_store(config)))


async def _emptied(store: ObjectStore) -> None:
    while isinstance(page := await store.list(""), Page) and page.objects:
        if await store.delete([each.key for each in page.objects]) is not None:
            return
    await store.close()


def _create_container(port: int, name: str) -> None:
    """Put Container, signed by hand: obstore does not create containers (Azure "Authorize with Shared Key")."""
    date = formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n{resource}"
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        },
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
            pass
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there
            raise
