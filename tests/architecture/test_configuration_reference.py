"""docs/reference/configuration.md describes every setting, with its default."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from threefold.settings import Settings, section_of

PAGE = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text()
SETTINGS = [
    (section, name, field)
    for section, outer in Settings.model_fields.items()
    if not outer.exclude
    for name, field in section_of(outer).model_fields.items()
]


@pytest.mark.parametrize(("section", "name", "field"), SETTINGS, ids=lambda value: str(value)[:20])
def test_each_setting_is_described(section: str, name: str, field: object) -> None:
    assert field.description, f"{section}.{name}"  # type: ignore[attr-defined]
    chapter = re.split(rf"\n## \[+{section}\]+\n", PAGE)[1].split("\n## ")[0]
    line = next((line for line in chapter.splitlines() if line.startswith(f"| `{name}` |")), None)
    assert line is not None, f"{section}.{name} is not in the table"
    default = field.default  # type: ignore[attr-defined]
    shown = {PydanticUndefined: "required", None: "", "": "", False: "false", True: "true"}
    value = f"{default.total_seconds():g}s" if isinstance(default, timedelta) else shown.get(default, default)
    assert f"| {value} |".replace("|  |", "| |") in line, line
