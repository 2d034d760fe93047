"""Who acts: every read is scoped by it, every change in the data log carries it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """What a person may do. A customer sees what is its own contact's, and nothing else."""

    ADMINISTRATOR = "administrator"
    EMPLOYEE = "employee"
    CUSTOMER = "customer"


@dataclass(frozen=True, slots=True)
class Actor:
    """A person on a device, or the system itself (``user`` is None).

    ``contact``: the customer's own contact; set if and only if the role is CUSTOMER.
    """

    role: Role
    user: UUID | None = None
    device: UUID | None = None
    contact: UUID | None = None
    name: str = "Threefold"

    @property
    def is_customer(self) -> bool:
        return self.role is Role.CUSTOMER

    @property
    def is_administrator(self) -> bool:
        return self.role is Role.ADMINISTRATOR


SYSTEM = Actor(Role.ADMINISTRATOR)
