"""What the edge refuses, beside the kernel's and the CRM's kinds; each asks something else of the caller.

None of them says more than the caller may know: a wrong password, an unknown person and another's device read alike.
"""

from __future__ import annotations

from threefold.kernel.errors import ThreefoldError, Unavailable


class Unauthenticated(ThreefoldError):
    """No session, or one that ended: sign in. 401."""


class BadProof(ThreefoldError):
    """The DPoP proof is missing, altered, too old, for something else, or was used before: make a new one. 401."""


class BadCredentials(ThreefoldError):
    """Neither the passkey nor the password fits. 401."""


class UnknownDevice(ThreefoldError):
    """The key is well proven, and nobody enrolled it (or it was revoked). 403."""


class Gone(ThreefoldError):
    """It was there and does not hold any more: an invitation that was used, withdrawn or has expired. 410."""


class TooLarge(ThreefoldError):
    """More bytes than are read. 413."""


class Misdirected(ThreefoldError):
    """Asked under a name that is not ours. 421."""


class TooMany(ThreefoldError):
    """Too much at once. 429; ``wait`` says for how many seconds to hold still."""

    def __init__(self, message: str, wait: float, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.wait = wait


class ReadOnly(Unavailable):
    """Changes are not taken, on purpose. 503; ``wait`` says for how many seconds to hold still."""

    def __init__(self, message: str, wait: float, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.wait = wait
