"""A mistake in threefold.toml is named, with what to do; secrets are read late and never shown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from threefold.kernel.errors import BadInput, Refused
from threefold.settings import Settings, load
from threefold.settings_values import duration

GOOD = """
[system]
name = "crm"
dsn = "host=db.example user=threefold dbname=postgres"
{system}
[keys]
master = "file:keys/master.key"
{stores}
"""
STORE = """
[[store]]
name = "{name}"
url = "s3://bucket-{name}/threefold"
provider = "{provider}"
"""


def three(providers: tuple[str, ...] = ("a", "b", "c")) -> str:
    return "".join(STORE.format(name=f"S{n}", provider=p) for n, p in enumerate(providers, 1))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "threefold.toml"
    path.write_text(text)
    return path


def good(tmp_path: Path, system: str = "", stores: str | None = None) -> Settings:
    return load(written(tmp_path, GOOD.format(system=system, stores=three() if stores is None else stores)))


def test_defaults_are_the_safe_ones(tmp_path: Path) -> None:
    settings = good(tmp_path)
    assert settings.system.durability == "sync"
    assert settings.system.max_lag == timedelta(seconds=1)
    assert settings.recovery.standby == "cold"
    assert settings.warnings() == []


@pytest.mark.parametrize(
    ("system", "message", "hint"),
    [
        ('durabilty = "sync"', "unknown key system.durabilty", "did you mean durability?"),
        ('colour = "red"', "unknown key system.colour", "known here: name, dsn"),
        ('durability = "maybe"', "system.durability", ""),
        ('max_lag = "5"', "write a number and a unit", ""),
        ('password = "hunter2"', "by reference", ""),
    ],
)
def test_mistakes_are_named(tmp_path: Path, system: str, message: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        good(tmp_path, system)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("providers", [("a", "b"), ("a", "b", "c", "d"), ()])
def test_exactly_three_stores(tmp_path: Path, providers: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="exactly three"):
        good(tmp_path, stores=three(providers))


def test_an_unknown_key_of_a_store_names_the_store(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown key store\.3\.endpiont") as caught:
        good(tmp_path, stores=three() + 'endpiont = "http://x:1"\n')
    assert caught.value.hint == "did you mean endpoint?"


def test_two_stores_with_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="same name"):
        good(tmp_path, stores=three().replace("S3", "S2"))


def test_one_failure_domain_draws_a_warning(tmp_path: Path) -> None:
    assert "one failure domain" in good(tmp_path, stores=three(("a", "a", "a"))).warnings()[0]


def test_a_password_in_the_dsn_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for dsn in ("host=x password=hunter2", "postgresql://me:hunter2@x/postgres"):
        text = GOOD.format(system="", stores=three()).replace("host=db.example user=threefold dbname=postgres", dsn)
        with pytest.raises(BadInput, match="holds a password") as caught:
            load(written(tmp_path, text))
        assert "hunter2" not in str(caught.value)


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no") as caught:
        load(tmp_path / "threefold.toml")
    assert "threefold init" in caught.value.hint
    with pytest.raises(BadInput, match="not valid TOML"):
        load(written(tmp_path, "[system\n"))


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREEFOLD_SYSTEM__SITE", "elsewhere")
    assert good(tmp_path, 'site = "here"').system.site == "elsewhere"


def test_secrets_are_read_when_needed_from_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = good(tmp_path)
    with pytest.raises(BadInput, match="cannot read"):
        settings.secret(settings.keys.master)
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys/master.key"
    key.touch(mode=0o600)
    key.write_text("abc\n")
    assert settings.secret(settings.keys.master) == "abc"
    with pytest.raises(BadInput, match="NOT_SET_HERE is not set"):
        settings.secret("env:NOT_SET_HERE")
    monkeypatch.setenv("NOT_SET_HERE", "x")
    assert settings.secret("env:NOT_SET_HERE") == "x"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    settings = good(tmp_path)
    key = tmp_path / "secret"
    key.write_text("hunter2\n")
    key.chmod(mode)
    with pytest.raises(Refused, match="others may read") as caught:
        settings.secret("file:secret")
    assert f"chmod 600 {key}" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    key.chmod(0o400)
    assert settings.secret("file:secret") == "hunter2"


def test_durations() -> None:
    assert duration("250ms") == timedelta(milliseconds=250)
    assert duration("1.5 h") == timedelta(minutes=90)
    with pytest.raises(ValueError, match="not a duration"):
        duration(5)
