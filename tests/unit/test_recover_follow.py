"""What a warm standby is told, and what may be made of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from threefold.kernel.errors import Refused
from threefold.postgres.binaries import account
from threefold.recover.follow import SYNC, Do, Folder, age, first_difference, kept_when_promoted, laid_over, what_to_do
from threefold.recover.overrides import with_standby, without_standby
from threefold.recover.upstream import hba_lines, own_conninfo, primary_conninfo

OURS = {"standby": True, "finished": True}
LIMITS = {"max_connections": "80"}


def _folder(
    marker: dict[str, object] | None = None,
    *,
    empty: bool = False,
    postgres: bool = True,
    signal: bool = False,
    running: int | None = None,
) -> Folder:
    return Folder(Path("/srv/standby"), empty, marker, postgres, signal, running)


@pytest.mark.parametrize("rebuild", [False, True])
def test_nothing_and_what_is_unfinished_is_restored(rebuild: bool) -> None:
    assert what_to_do(_folder(empty=True, postgres=False), rebuild=rebuild) is Do.RESTORE
    assert what_to_do(_folder({"standby": True, "finished": False}), rebuild=rebuild) is Do.RESTORE


def test_a_copy_is_kept_until_it_is_foreign_or_given_up() -> None:
    ours = _folder(OURS, signal=True, running=7)
    assert what_to_do(ours, rebuild=False) is Do.KEEP
    assert what_to_do(ours, rebuild=True) is Do.REBUILD
    assert what_to_do(_folder({**OURS, "foreign": "it differs"}, signal=True), rebuild=False) is Do.REBUILD


@pytest.mark.parametrize(
    ("found", "rebuild", "says"),
    [
        (_folder(postgres=False), True, "no PostgreSQL data folder"),
        (_folder(), False, "no standby of ours"),
        (_folder(signal=True), False, "no standby of ours"),  # somebody else's
        (_folder(OURS), False, "no standby of ours"),  # it was promoted
        (_folder({"finished": True}, signal=False), False, "no standby of ours"),
        (_folder(running=7), True, "is running"),
        (_folder(OURS, running=7), True, "is running"),
    ],
)
def test_what_nobody_gave_up_is_not_destroyed(found: Folder, rebuild: bool, says: str) -> None:
    with pytest.raises(Refused, match=says):
        what_to_do(found, rebuild=rebuild)


def test_a_former_primary_is_rebuilt_when_it_is_given_up() -> None:
    assert what_to_do(_folder(), rebuild=True) is Do.REBUILD


def test_commits_wait_from_the_first_moment_and_only_a_primarys_settings_stay() -> None:
    standby = laid_over(LIMITS, 16 * 2**20, follow="host=a")
    assert standby["synchronous_standby_names"] == SYNC
    assert standby["archive_mode"] == "off"
    assert standby["primary_slot_name"] == ""
    assert standby["max_connections"] == "80"
    assert standby["wal_keep_size"] == "256MB"
    assert laid_over(LIMITS, 2**30, follow="")["wal_keep_size"] == "4096MB"
    assert laid_over(LIMITS, 2**30, follow="", hurry=True)["max_standby_streaming_delay"] == "0"
    stays = kept_when_promoted({**standby, "primary_conninfo": ""}, {"synchronous_standby_names": ""})
    assert stays["synchronous_standby_names"] == ""
    assert not {name for name in stays if name.startswith(("recovery_target", "max_standby", "wal_receiver", "hot_"))}


def test_what_is_laid_over_takes_its_own_place() -> None:
    file = "port = '5432'\n"
    one = with_standby(file, {"a": "1", "primary_conninfo": "host='x'"})
    assert "primary_conninfo = 'host=''x'''" in one
    two = with_standby(one, {"a": "2"})
    assert two.count("a = ") == 1
    assert two.startswith(file)
    assert without_standby(two) == file
    assert without_standby(two + "b = '3'\n") == file + "b = '3'\n"
    assert without_standby(one.partition("# Up to here.")[0]) == file  # cut off: nothing of it counts


def test_bytes_are_compared_to_the_first_that_differs() -> None:
    data = bytes(range(256)) * 100
    assert first_difference(data, data) is None
    assert first_difference(b"", b"") is None
    assert first_difference(data, data[:500]) == 500
    for at in (0, 1, 255, 12_345, len(data) - 1):
        other = bytearray(data)
        other[at] ^= 1
        assert first_difference(data, bytes(other)) == at


def test_what_is_read_is_at_most_that_old() -> None:
    assert age(caught_up_s_ago=None, last_commit_s_ago=None) is None
    assert age(caught_up_s_ago=3.0, last_commit_s_ago=None) == 3.0
    assert age(caught_up_s_ago=3.0, last_commit_s_ago=600.0) == 3.0
    assert age(caught_up_s_ago=30.0, last_commit_s_ago=2.0) == 2.0


def test_the_password_is_in_a_file_of_its_own(tmp_path: Path) -> None:
    passfile = tmp_path / "standby.pgpass"
    dsn = r"host=db.example port=5432 user=threefold dbname=crm password='a:b\\c d' sslmode=require"
    made = conninfo_to_dict(primary_conninfo(dsn, site="eu-cloud", passfile=passfile, owner=account()))
    assert made["application_name"] == "threefold_standby_eu-cloud"
    assert made["passfile"] == str(passfile)
    assert made["sslmode"] == "require"
    assert "password" not in made
    assert "dbname" not in made
    assert passfile.read_text() == "*:*:*:*:a\\:b\\\\c d\n"
    assert passfile.stat().st_mode & 0o777 == 0o600


def test_we_reach_our_own_with_the_primarys_role() -> None:
    dsn = (
        "host=db.example hostaddr=10.0.0.9 port=5432 user=threefold dbname=crm password=x target_session_attrs=primary"
    )
    for host, reached in (("0.0.0.0", "127.0.0.1"), ("10.0.0.5", "10.0.0.5"), ("", "127.0.0.1")):
        own = conninfo_to_dict(own_conninfo(dsn, host=host, port=5433, socket_dir=None))
        assert (own["host"], own["port"], own["user"], own["dbname"]) == (reached, "5433", "threefold", "crm")
        assert not {"hostaddr", "target_session_attrs"} & own.keys()
    assert 'host all "threefold" samehost md5\n' in hba_lines(dsn)
    assert hba_lines("host=db.example user=threefold") == ""
