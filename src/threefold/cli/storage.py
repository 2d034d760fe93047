"""`threefold storage serve`: one storage server for a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from threefold import telemetry
from threefold.cli.options import Json, Quiet
from threefold.cli.output import Output
from threefold.kernel.errors import BadInput
from threefold.storage_server.engine import EngineOptions
from threefold.storage_server.serve import ServeConfig, create_bucket
from threefold.storage_server.serve import serve as serve_forever

app = typer.Typer(help="Our own storage server: S3 for a plain disk.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group, though it has one verb: `threefold storage serve` says more than `threefold serve`."""


@app.command()
def serve(
    data: Annotated[Path, typer.Option(help="The disk's folder; made where it is missing.", metavar="DIR")],
    listen: Annotated[str, typer.Option(help="Where to listen.", metavar="HOST:PORT")] = "127.0.0.1:9101",
    credentials: Annotated[
        Path | None,
        typer.Option(
            help="A line per key: ACCESS_KEY_ID SECRET_ACCESS_KEY, readable by its owner alone. Without it the "
            "variables THREEFOLD_STORAGE_ACCESS_KEY_ID and THREEFOLD_STORAGE_SECRET_ACCESS_KEY are used.",
            metavar="FILE",
        ),
    ] = None,
    bucket: Annotated[
        list[str] | None,
        typer.Option(help="Make this bucket first. For the first start: an emptied disk must not pass for a new one."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.", metavar="FILE")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.", metavar="FILE")] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Serve other machines without TLS: where a proxy has it.")
    ] = False,
    min_free: Annotated[
        int | None, typer.Option(help="Below that many free bytes writes are refused (507); reads go on.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve one disk to Threefold, over the part of S3 that it needs. A kill -9 at any moment loses nothing.

    [bold]Example:[/] threefold storage serve --data /srv/s1 --listen 0.0.0.0:9101
    --credentials s1.keys --tls-cert s1.pem --tls-key s1.key

    The first time with --bucket crm-dr besides.
    """
    output = Output(as_json, quiet)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise BadInput(f"not an address: {listen!r}", hint="it reads like 127.0.0.1:9101")
    telemetry.configure(quiet=quiet)
    engine = EngineOptions() if min_free is None else EngineOptions(min_free_bytes=min_free)
    for name in bucket or []:
        create_bucket(data, name, options=engine)

    def ready(host: str, port: int) -> None:
        output.result({"listening": f"{host}:{port}", "data": data}, f"serving {data} on {host}:{port}")

    serve_forever(
        ServeConfig(
            data_dir=data,
            host=host.strip("[]"),
            port=int(port),
            credentials_file=credentials,
            tls_cert=tls_cert,
            tls_key=tls_key,
            allow_http=allow_http,
            engine=engine,
        ),
        on_ready=ready,
    )
