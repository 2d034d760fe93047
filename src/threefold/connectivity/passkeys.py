"""Passkeys (WebAuthn): the way people sign in. The authenticator verifies the person, and we verify the authenticator.

A challenge is kept in the database, for one purpose and one device's key, for five minutes; the first answer to it
takes it away, right or wrong. The relying party is the host of the public address: a passkey works under that name
alone, so the recovered site has to answer under the same one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
from webauthn import (
    base64url_to_bytes,
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from threefold.connectivity.admission import hashed
from threefold.connectivity.headers import Origin
from threefold.connectivity.refusals import BadCredentials
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.sql.database import Database
from threefold.kernel.errors import NotThere

_LIFETIME: Final = timedelta(minutes=5)
_ALGORITHMS: Final = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
_AGAIN: Final = "try again; the challenge holds for five minutes, on this device, once"
_WRONG: Final = "the passkey's answer does not hold"


@dataclass(frozen=True, slots=True)
class Made:
    """A new passkey, verified, not yet kept."""

    id: bytes
    public_key: bytes
    sign_count: int
    backed_up: bool


class Passkeys:
    def __init__(self, database: Database, origin: Origin, title: str) -> None:
        self._database = database
        self._origin = origin
        self._title = title

    async def creation_options(self, user: UUID, name: str, email: str, thumbprint: str) -> dict[str, Any]:
        """What the browser needs to make a passkey for this person."""
        async with self._database.read() as connection:
            held = [row["id"] for row in await of_user(connection, user)]
        options = generate_registration_options(
            rp_id=self._origin.name,
            rp_name=self._title,
            user_id=user.bytes,
            user_name=email,
            user_display_name=name,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                require_resident_key=True,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=passkey) for passkey in held],
            supported_pub_key_algs=_ALGORITHMS,
        )
        await self._keep(options.challenge, "enrol", thumbprint, user)
        return dict(json.loads(options_to_json(options)))

    async def request_options(self, thumbprint: str) -> dict[str, Any]:
        """What the browser needs to ask for any passkey of ours."""
        options = generate_authentication_options(
            rp_id=self._origin.name, user_verification=UserVerificationRequirement.REQUIRED
        )
        await self._keep(options.challenge, "signin", thumbprint, None)
        return dict(json.loads(options_to_json(options)))

    async def made(self, answer: dict[str, Any], user: UUID, thumbprint: str) -> Made:
        """Verify what the authenticator answered to `creation_options`. Raises Invalid."""
        try:
            challenge = await self._taken(answer, "enrol", thumbprint, user)
            new = verify_registration_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=self._origin.name,
                expected_origin=self._origin.url,
                require_user_verification=True,
                supported_pub_key_algs=_ALGORITHMS,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
            raise Invalid("the passkey could not be verified", {"registration": _WRONG}, hint=_AGAIN) from None
        return Made(new.credential_id, new.credential_public_key, new.sign_count, new.credential_backed_up)

    async def user_of(self, answer: dict[str, Any], thumbprint: str) -> UUID:
        """Whose passkey signed the challenge, and note the use. Raises BadCredentials."""
        try:
            challenge = await self._taken(answer, "signin", thumbprint, None)
            passkey = base64url_to_bytes(str(answer["rawId"]))
            handle = (answer.get("response") or {}).get("userHandle")
            async with self._database.write(SYSTEM) as tx:
                row = await _locked(tx, passkey)
                if row is None or (handle and base64url_to_bytes(str(handle)) != row["user_id"].bytes):
                    raise ValueError(_WRONG)
                used = verify_authentication_response(
                    credential=answer,
                    expected_challenge=challenge,
                    expected_rp_id=self._origin.name,
                    expected_origin=self._origin.url,
                    credential_public_key=row["public_key"],
                    credential_current_sign_count=row["sign_count"],
                    require_user_verification=True,
                )
                await tx.connection.execute(
                    "UPDATE edge.passkeys SET sign_count = %s, backed_up = %s, used_at = now() WHERE id = %s",
                    (used.new_sign_count, used.credential_backed_up, passkey),
                )
                owner: UUID = row["user_id"]
                return owner
        except (WebAuthnException, ValueError, TypeError, KeyError, AttributeError):
            raise BadCredentials(_WRONG, hint=_AGAIN) from None

    async def _keep(self, challenge: bytes, purpose: str, thumbprint: str, user: UUID | None) -> None:
        async with self._database.write(SYSTEM) as tx:
            await tx.connection.execute("SET LOCAL synchronous_commit = off")  # lost in a fail-over: asked for again
            await tx.connection.execute(
                """INSERT INTO edge.challenges (hash, purpose, thumbprint, user_id, expires_at)
                   VALUES (%s, %s, %s, %s, now() + %s)""",
                (hashed(challenge.hex()), purpose, thumbprint, user, _LIFETIME),
            )

    async def _taken(self, answer: dict[str, Any], purpose: str, thumbprint: str, user: UUID | None) -> bytes:
        """The challenge that the answer says it answers, if it is one of ours; it is gone from here on."""
        said = json.loads(base64url_to_bytes(str(answer["response"]["clientDataJSON"])))
        challenge = base64url_to_bytes(str(said["challenge"]))
        async with self._database.write(SYSTEM) as tx:
            cursor = await tx.connection.execute(
                """DELETE FROM edge.challenges WHERE hash = %s
                   RETURNING purpose = %s AND thumbprint = %s AND user_id IS NOT DISTINCT FROM %s
                             AND expires_at > now() AS holds""",
                (hashed(challenge.hex()), purpose, thumbprint, user),
            )
            row = await cursor.fetchone()
        if row is None or not row["holds"]:
            raise ValueError(_WRONG)
        return challenge


async def keep(tx: Tx, user: UUID, made: Made, name: str) -> None:
    try:
        await tx.connection.execute(
            """INSERT INTO edge.passkeys (id, user_id, name, public_key, sign_count, backed_up)
               VALUES (%s, %s, %s, %s, %s, %s)""",
            (made.id, user, name, made.public_key, made.sign_count, made.backed_up),
        )
    except psycopg.errors.UniqueViolation:
        raise Conflict("this passkey is registered already", hint="sign in with it") from None


async def of_user(connection: Connection, user: UUID) -> list[Row]:
    cursor = await connection.execute(
        """SELECT id, name, created_at, used_at, backed_up FROM edge.passkeys
           WHERE user_id = %s ORDER BY created_at DESC, id""",
        (user,),
    )
    return await cursor.fetchall()


async def remove(tx: Tx, user: UUID, passkey: bytes) -> None:
    """Raises Conflict for the last way to sign in."""
    await tx.connection.execute("SELECT 1 FROM crm.users WHERE id = %s FOR UPDATE", (user,))
    cursor = await tx.connection.execute(
        "DELETE FROM edge.passkeys WHERE id = %s AND user_id = %s RETURNING id", (passkey, user)
    )
    if await cursor.fetchone() is None:
        raise NotThere("there is no such passkey")
    left = await tx.connection.execute(
        """SELECT EXISTS (SELECT FROM edge.passkeys WHERE user_id = %(user)s)
               OR EXISTS (SELECT FROM edge.passwords WHERE user_id = %(user)s) AS any""",
        {"user": user},
    )
    row = await left.fetchone()
    if row is None or not row["any"]:
        raise Conflict("it is your last way to sign in", hint="add another passkey or a password first")


async def _locked(tx: Tx, passkey: bytes) -> Row | None:
    cursor = await tx.connection.execute(
        "SELECT user_id, public_key, sign_count FROM edge.passkeys WHERE id = %s FOR UPDATE", (passkey,)
    )
    return await cursor.fetchone()
