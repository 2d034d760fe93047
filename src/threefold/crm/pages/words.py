"""How values look to people: money, times, names, states. The filters of the templates.

Pure. Times are written in UTC here; times.js shows them again in the reader's own zone.
"""

from __future__ import annotations

import zlib
from datetime import UTC, date, datetime
from typing import Any, Final

from threefold.crm.model.kinds import PRIORITIES

_SIGNS: Final = {"EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥", "INR": "₹"}
_TONES: Final = {
    "new": "blue",
    "open": "violet",
    "assigned": "violet",
    "in progress": "violet",
    "waiting": "amber",
    "answered": "green",
    "done": "green",
    "won": "green",
    "closed": "grey",
    "cancelled": "grey",
    "lost": "grey",
    "lead": "blue",
    "qualified": "blue",
    "proposal": "violet",
    "negotiation": "amber",
    "urgent": "red",
    "revoked": "red",
}
_COLOURS: Final = ("blue", "violet", "amber", "green", "red", "accent", "grey")


def money(cents: int | None, currency: str = "EUR") -> str:
    """``€ 1,299.99``; currencies without a sign of their own by their code."""
    if cents is None:
        return ""
    sign = "-" if cents < 0 else ""
    whole, rest = divmod(abs(cents), 100)
    return f"{sign}{_SIGNS.get(currency, currency)} {whole:,}.{rest:02d}"


def amount(cents: int | None) -> str:
    """As it stands in a form's field: ``1299.99``."""
    if cents is None:
        return ""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def cents(text: str) -> int | str:
    """What a person typed as money, in hundredths; the text itself where it is none, for the service to refuse.

    ``1,299.99``, ``1299.9``, ``1 299`` and ``1.299,99`` are all meant: the last mark followed by one or two digits
    parts the hundredths, and other marks are grouping.
    """
    kept = text.strip().replace("\u00a0", " ").replace(" ", "").replace("'", "")
    sign = -1 if kept.startswith("-") else 1
    kept = kept[1:] if kept[:1] in ("-", "+") else kept
    at = max(kept.rfind("."), kept.rfind(","))
    whole, rest = (kept, "") if at < 0 or len(kept) - at - 1 not in {1, 2} else (kept[:at], kept[at + 1 :])
    groups = whole.replace(",", ".").split(".")
    well_grouped = all(len(group) == 3 for group in groups[1:]) and (len(groups) == 1 or 1 <= len(groups[0]) <= 3)
    digits = "".join(groups)
    if not (digits + rest).isascii() or not (digits + rest).isdigit() or not well_grouped:
        return text
    return sign * (int(digits or "0") * 100 + int(rest.ljust(2, "0") if rest else "0"))


def instant(at: datetime | date | str | None) -> str:
    """ISO 8601 in UTC, for machines."""
    if at is None:
        return ""
    if isinstance(at, datetime):
        return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return str(at)


def plain_time(at: datetime | date | None) -> str:
    """For people, where no script says it in their own zone."""
    if at is None:
        return ""
    if isinstance(at, datetime):
        return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"
    return f"{at:%-d %b %Y}"


def tone(value: str | None) -> str:
    """The colour of a state."""
    return _TONES.get(str(value or "").lower(), "grey")


def priority(number: int | None) -> str:
    return PRIORITIES.get(number or 3, "normal").capitalize()


def initials(name: str | None) -> str:
    words = [word for word in str(name or "?").split() if word[0].isalnum()] or ["?"]
    return (words[0][0] + (words[-1][0] if len(words) > 1 else "")).upper()


def colour_of(name: str | None) -> str:
    """A person's colour: always the same."""
    return _COLOURS[zlib.crc32(str(name or "").encode()) % len(_COLOURS)]


def plural(number: int, one: str, many: str = "") -> str:
    """``1 issue``, ``2 issues``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """Errors are lower-case and without a full stop; between other sentences they have both."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def bytes_size(size: int) -> str:
    """``2.4 MB``."""
    if size < 1000:
        return f"{size} B"
    for unit, scale in (("kB", 10**3), ("MB", 10**6), ("GB", 10**9)):
        if size < scale * 1000:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 10**12:.1f} TB"


FILTERS: Final[dict[str, Any]] = {
    "money": money,
    "amount": amount,
    "instant": instant,
    "plain_time": plain_time,
    "tone": tone,
    "priority": priority,
    "initials": initials,
    "colour_of": colour_of,
    "plural": plural,
    "bytes_size": bytes_size,
    "sentence": sentence,
}
