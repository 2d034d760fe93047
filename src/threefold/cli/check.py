"""`threefold check`: whether everything is as protection needs it, and what to run where it is not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from rich.table import Table

from threefold.bootstrap import Parts, open_parts, primary_of
from threefold.bootstrap_failover import prepared_of
from threefold.cli.common import execute, settings
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.cli.words import span
from threefold.failover.preflight import judge as judge_disaster
from threefold.kernel.errors import Refused, ThreefoldError
from threefold.protect.check import Finding, Level, judge, look, try_replication
from threefold.quorum.keys import WRAPPED
from threefold.settings import Settings
from threefold.stores.lock_proof import prove_lock
from threefold.stores.probe import ProbeReport, probe
from threefold.stores.store import Page

_LOCK_OFF: Final = "lock = true for this store, where it can lock objects (docs/howto/lock-the-copies.md)"
_SHORT_LOCK: Final = timedelta(days=3)
_MARKS = {Level.FINE: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.FAILED: "[bold red]✗[/]"}


def check(config: Config = CONFIG, as_json: Json = False, quiet: Quiet = False) -> None:
    """Look at the primary, the three stores and the keys before anything rests on them.

    Every store is tried with racing creates: one that lets two writers win is refused. Where copies are locked, a
    small locked object is put there, and has to withstand our own keys. Nothing on the primary is changed; what has to
    be changed is printed, ready to be run. Exit code 3 if something is not as it has to be.

    [bold]Example:[/] threefold check --config threefold.toml
    """
    output = Output(as_json, quiet)
    execute(_check(settings(config, output), output), output)


async def _check(found: Settings, output: Output) -> None:
    progress = output.progress()
    async with open_parts(found, verb="check") as parts:
        progress.step("check", "asking the primary and trying the three stores", unit="objects")
        try:
            primary, stores, locks, disaster = await asyncio.gather(
                _primary(parts),
                asyncio.gather(*(probe(store, parts.clock) for store in parts.stores.values())),
                _locks(parts),
                prepared_of(parts),
            )
        finally:
            output.finish(progress)
        tried = [finding for report in stores for finding in _store(report)]
        findings = [*primary, *tried, *locks, *await _keys(parts), *judge_disaster(disaster)]
    failed = [finding for finding in findings if finding.level is Level.FAILED]
    facts = {
        "findings": [
            {"name": each.name, "level": each.level, "detail": each.detail, "remedy": each.remedy} for each in findings
        ],
        "ready": not failed,
    }
    output.result(facts, _table(findings), "" if failed else "[green]Ready.[/]")
    if failed:
        names = ", ".join(finding.name for finding in failed)
        raise Refused(f"not ready to protect: {names}", hint="do what stands beside each ✗, then check again")


async def _primary(parts: Parts) -> list[Finding]:
    primary = primary_of(parts.settings)
    connection = await try_replication(primary.dsn)
    try:
        facts = await look(primary.dsn, primary.slot)
    except ThreefoldError as error:
        return [connection, Finding("primary", Level.FAILED, error.message, error.hint)]
    sync = parts.settings.system.durability == "sync"
    findings = judge(facts, sync=sync, application_name=primary.application_name)
    return [connection, *findings, _binaries(parts, int(facts.settings["server_version_num"]) // 10000)]


def _binaries(parts: Parts, major: int) -> Finding:
    """Recovery needs the same major version here."""
    try:
        binaries = parts.binaries(major)
    except ThreefoldError as error:
        return Finding("programs for recovery", Level.WARNING, error.message, error.hint)
    return Finding("programs for recovery", Level.FINE, f"PostgreSQL {binaries.version} in {binaries.bin_dir}")


def _store(report: ProbeReport) -> list[Finding]:
    if report.passed:
        latency = f"creates take {report.create_p50 * 1000:.1f} ms (p50), {report.create_p99 * 1000:.1f} ms (p99)"
        return [Finding(f"store {report.store}", Level.FINE, f"keeps its promises; {latency}")]
    return [
        Finding(f"store {report.store}: {finding.name}", Level.FAILED, finding.detail, finding.hint)
        for finding in report.findings
        if not finding.passed
    ]


async def _locks(parts: Parts) -> list[Finding]:
    """Whether what is locked withstands the very keys that `threefold protect` has."""
    settings = parts.settings
    names, period = settings.locked_stores, settings.locks.period
    proofs = await asyncio.gather(*(prove_lock(parts.stores[name], parts.clock) for name in names))
    findings = [
        Finding(
            f"lock on {proof.store}",
            Level.FAILED if not proof.locked else Level.WARNING if proof.hides else Level.FINE,
            proof.detail,
            proof.hint,
        )
        for proof in proofs
    ]
    findings += [
        Finding(f"lock on {name}", Level.WARNING, "not locked: these keys can delete everything there", _LOCK_OFF)
        for name in (parts.stores.keys() - set(names) if names else ())
    ]
    if names and period < _SHORT_LOCK:
        detail = f"locks last {span(period.total_seconds())}: a thief who stops this machine has to wait no longer"
        findings.append(Finding("lock period", Level.WARNING, detail, 'period = "30d" in [locks]'))
    return findings


async def _keys(parts: Parts) -> list[Finding]:
    ring = parts.keyring
    more = f"; {ring.newest} is prepared (threefold keys rotate --activate)" if ring.prepared else ""
    findings = [Finding("master key", Level.FINE, f"key {ring.key_id}{more}")]
    if parts.settings.keys.wrapped is None and not await _some_are_wrapped(parts):
        detail = "the stores hold no copy that a passphrase opens: with this machine the key would be lost"
        findings.append(
            Finding("key for recovery", Level.WARNING, detail, "set [keys] wrapped (docs/howto/keep-the-key.md)")
        )
    findings += [
        Finding("failure domains", Level.WARNING, warning, "choose another provider or region for one of them")
        for warning in parts.settings.warnings()
    ]
    return findings


async def _some_are_wrapped(parts: Parts) -> bool:
    """Whether any store holds a copy that a passphrase or shares open; who does not answer says nothing."""
    pages = await asyncio.gather(*(store.list(WRAPPED, limit=1) for store in parts.stores.values()))
    return any(isinstance(page, Page) and page.objects for page in pages)


def _table(findings: list[Finding]) -> Table:
    rows = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        rows.add_row(_MARKS[finding.level], finding.name, finding.detail)
        if finding.remedy:
            rows.add_row("", "", f"[bold]→[/] {finding.remedy}")
    return rows
