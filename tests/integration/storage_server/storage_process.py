"""Starts the real server in a process of its own. Run as a script, it is that process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIDTESTSERVER", "a-secret-of-the-test-server"
BUCKET = "crm-dr"


class StorageProcess:
    """A server on a free port. `kill` is kill -9; `start` again on the same folder and another port."""

    def __init__(self, data_dir: Path, **options: Any) -> None:
        self.data_dir = data_dir
        self.options = options
        self.process = None
        self.port = 0

    def start(self, *, bucket: str = BUCKET) -> StorageProcess:
        options = dict(self.options)
        script = options.pop("script", __file__)
        spec = json.dumps({"data_dir": str(self.data_dir), "bucket": bucket} | options)
        self.process = subprocess.Popen(
            [sys.executable, script, spec],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"THREEFOLD_STORAGE_ACCESS_KEY_ID": KEY, "THREEFOLD_STORAGE_SECRET_ACCESS_KEY": SECRET},
        )
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=10)[1].decode())
        self.port = int(line)
        return self

    @property
    def endpoint(self) -> str:
        return f"{'https' if 'tls_cert' in self.options else 'http'}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """Its exit code, and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors.decode()


Launch = Callable[..., StorageProcess]


def main() -> None:
    from threefold.kernel.errors import ThreefoldError
    from threefold.storage_server.app import AppOptions
    from threefold.storage_server.engine import EngineOptions
    from threefold.storage_server.serve import ServeConfig, create_bucket, serve

    spec = json.loads(sys.argv[1])
    data_dir = Path(spec.pop("data_dir"))
    bucket = spec.pop("bucket")
    tls = {name: Path(spec.pop(name)) for name in ("tls_cert", "tls_key") if name in spec}
    app = AppOptions(**{name: spec.pop(name) for name in ("object_bytes_max", "memory_bytes_max") if name in spec})
    engine = EngineOptions(**({"journal_file_bytes": 1 << 20, "inline_bytes_max": 64 << 10} | spec))
    try:
        if bucket:
            create_bucket(data_dir, bucket, options=engine)
        config = ServeConfig(data_dir, port=0, engine=engine, app=app, **tls)
        serve(config, on_ready=lambda _host, port: print(port, flush=True))
    except ThreefoldError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
