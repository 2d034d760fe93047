"""Clients of the server under test. Not in conftest.py: another folder's file of that name would be found first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import boto3
from botocore.config import Config
from obstore.store import S3Store
from storage_process import BUCKET, KEY, SECRET, StorageProcess


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
