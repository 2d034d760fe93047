"""SeaweedFS, all of it in one process, as an S3 store that keeps what it acknowledged.

By default its filer keeps its metadata in LevelDB without fsync, and its volumes are not flushed either. What makes it
a store to rely on is an SQLite filer and ``fs.configure -fsync`` (docs/howto/stores/seaweedfs.md says the same to
operators). gRPC ports are the HTTP ports + 10000, so the free ports are looked for below 22768.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tests.conformance import products
from tests.conformance.products import Missing
from tests.conformance.servers import Server, running

from threefold.stores.open import StoreConfig

BUCKET = "crm-dr"
KEY, SECRET = "key", "only loopback ever sees it"
_OWNER, _OWNERS_SECRET = "owner", "makes the bucket"
_FILER = """
[leveldb2]
enabled = false
[sqlite]
enabled = true
dbFile = "{folder}/filer.db"
"""


class SeaweedFS:
    """Its folder and its ports; `start`, `kill` and `start` again on the same ones."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is empty, or another run's."""
        self._weed = str(products.seaweedfs())
        self._folder = folder
        self._ports = _ports(4)
        self.port = self._ports[3]
        (folder / "data").mkdir(exist_ok=True)
        (folder / "filer.toml").write_text(_FILER.format(folder=folder))
        rights = [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")]
        identities = [_identity("tests", KEY, SECRET, rights), _identity("owner", _OWNER, _OWNERS_SECRET, ["Admin"])]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self._up = ExitStack()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        master, volume, filer, s3 = self._ports
        argv = [
            *(self._weed, f"-config_dir={self._folder}", "server", f"-dir={self._folder}/data"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
            *("-master.volumeSizeLimitMB=64", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"),
            *("-master.telemetry=false", "-volume.max=0", "-volume.preStopSeconds=0"),
            *(f"-s3.config={self._folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]
        self.process = self._up.enter_context(running(argv, s3, env={"GOMEMLIMIT": "400MiB"}))
        self._serve()

    def kill(self) -> None:
        """With -9: it takes a quarter of a minute to end by itself."""
        self._up.close()

    def _serve(self) -> None:
        """Until the bucket takes objects, and flushes them. A port that answers is not yet a volume to write to."""
        s3 = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=_OWNER,
            aws_secret_access_key=_OWNERS_SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={}),
        )
        give_up = time.monotonic() + 40
        configured = (self._folder / "configured").exists()
        while True:
            try:
                if not configured:
                    self._shell("fs.configure -locationPrefix=/buckets/ -fsync -volumeGrowthCount=1 -apply")
                    s3.create_bucket(Bucket=BUCKET)
                    (self._folder / "configured").touch()
                    configured = True
                s3.put_object(Bucket=BUCKET, Key="ready", Body=b"x")
                s3.delete_object(Bucket=BUCKET, Key="ready")
                return
            except (BotoCoreError, ClientError, OSError, subprocess.SubprocessError) as error:
                if time.monotonic() > give_up:
                    raise Missing(f"SeaweedFS took no object within 40 s: {error}") from None
                time.sleep(0.1)

    def _shell(self, command: str) -> None:
        master, _, filer, _ = self._ports
        argv = [self._weed, "shell", f"-master=127.0.0.1:{master}", f"-filer=127.0.0.1:{filer}"]
        done = subprocess.run(argv, input=command.encode(), capture_output=True, timeout=20, check=True)
        if b"error" in done.stderr.lower():
            raise OSError(done.stderr.decode(errors="replace")[-300:])


@contextmanager
def seaweedfs() -> Iterator[Server]:
    with TemporaryDirectory() as folder:
        server = SeaweedFS(Path(folder))
        try:
            server.start()
            assert server.process is not None
            yield Server(config(server.port), server.port, server.process)
        finally:
            server.kill()


def config(port: int) -> StoreConfig:
    return StoreConfig(
        name="seaweedfs",
        url=f"s3://{BUCKET}/threefold/crm",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=KEY,
        secret_access_key=SECRET,
    )


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    """An identity that is Admin makes a missing bucket by writing to it: ours is not."""
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _ports(many: int) -> list[int]:
    """Free together with the gRPC ports 10000 above."""
    found: list[int] = []
    while len(found) < many:
        port = random.randrange(12000, 22700)
        with socket.socket() as http, socket.socket() as grpc:
            try:
                http.bind(("127.0.0.1", port))
                grpc.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
