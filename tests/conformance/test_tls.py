"""A store with a certificate of a private authority: trusted through ca_file, and not otherwise."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.conformance import servers
from tests.conformance.servers import Server

from threefold.stores.open import open_store
from threefold.stores.store import ABSENT, Unknown


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Files: the authority's certificate, the server's certificate, the server's key."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the company's own authority")])
    now = datetime.now(UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(authority_key, SHA256()).public_bytes(Encoding.PEM)

    files = (tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key")
    files[0].write_bytes(certificate(issuer, authority_key, ca=True))
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s1")])
    files[1].write_bytes(certificate(server_name, server_key, ca=False))
    files[2].write_bytes(server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.fixture
def secure(authority: tuple[Path, Path, Path]) -> Iterator[Server]:
    with servers.own(tls=authority[1:]) as server:
        yield server


async def test_a_private_authority(secure: Server, authority: tuple[Path, Path, Path]) -> None:
    trusting = open_store(replace(secure.config, ca_file=authority[0]))
    assert await trusting.read("nothing") is ABSENT
    assert isinstance(await open_store(secure.config).read("nothing"), Unknown)
