"""How a variant breaks the protocol: it puts something else in the place of one function of production."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

Broken = Callable[[], Any]


def patched(target: object, name: str, make: Callable[[Any], Any]) -> Any:
    """``make`` is given what stands there."""
    return patch.object(target, name, make(getattr(target, name)))
