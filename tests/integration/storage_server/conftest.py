from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from obstore.store import S3Store
from storage_process import Launch

sys.path.insert(0, str(Path(__file__).parent))
from storage_process import BUCKET, KEY, SECRET, StorageProcess


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers; whatever still runs at the end is killed."""
    started = []

    def start(name: str = "data", **options: Any) -> StorageProcess:
        server = StorageProcess(tmp_path / name, **options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


def open_obstore(server: StorageProcess, **more: Any) -> S3Store:
    options = {"allow_http": True, "timeout": timedelta(seconds=20)} | more.pop("client_options", {})
    return S3Store(
        more.pop("bucket", BUCKET),
        endpoint=server.endpoint,
        access_key_id=KEY,
        secret_access_key=more.pop("secret", SECRET),
        region="khi",
        virtual_hosted_style_request=False,
        client_options=options,
        retry_config={"max_retries": 0},
        **more,
    )


def open_boto(server: StorageProcess, **more: Any) -> Any:
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **more.pop("config", {}))
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server.endpoint, config=config, **keys | more)
