"""What a verdict rests on, one fact a line, for a person who has to believe it or not. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from threefold.failover.reports import Condition, PrimarySeen, Seen, Waits
from threefold.failover.scene import STREAMED_S, Scene, View

_CONDITIONS = {
    Condition.STARTING: "it is starting or recovering",
    Condition.FULL: "it has no connection left for us",
    Condition.SHUT_TO_US: "it does not let us in",
    Condition.STANDBY: "it is a standby",
    Condition.FOREIGN: "it is another database system",
}
_SLEPT_S = 1.0


def evidence_of(scene: Scene) -> tuple[str, ...]:
    """Never empty."""
    lines = [_own(scene.own)]
    lines += [_other(view) for view in scene.others]
    lines += [f"{name} has not been heard for {seconds(age)}" for name, age in scene.unheard.items()]
    lines += [
        f"WAL reached {source} {seconds(age)} ago" for source, age in scene.streams.items() if age <= 10 * STREAMED_S
    ]
    lines += [_draas(scene)] if scene.draas.epoch else []
    lines.append(_stores(scene))
    if not scene.others:
        lines.append(
            "there is no other vantage (`threefold sentinel`): a cut line and a dead site look the same from here"
        )
    if not scene.ever:
        lines.append("nobody has seen this primary alive since we look: the address may be wrong")
    if scene.missed_s >= _SLEPT_S:
        lines.append(
            f"we ourselves slept through {seconds(scene.missed_s)} so far, which does not count as its silence"
        )
    return tuple(lines)


def _own(view: View | None) -> str:
    return "we have not looked yet" if view is None else f"we: {_words(view)}"


def _other(view: View) -> str:
    where = f" at {view.site}" if view.site else ""
    return f"{view.vantage}{where}, {seconds(view.report_s)} ago: {_words(view)}"


def _words(view: View) -> str:
    seen = view.seen
    parts = [f"host {_host(seen)}", f"process {_process(seen)}", f"SQL {_sql(view)}"]
    if seen.write is not Seen.UNKNOWN:
        parts.append(f"write {_write(seen)}")
    if seen.condition in _CONDITIONS:
        parts.append(_CONDITIONS[seen.condition])
    if seen.disk_free is not None:
        parts.append(f"{seen.disk_free / 2**30:.1f} GiB of its disk free")
    if seen.detail:
        parts.append(seen.detail)
    return ", ".join(parts)


def _host(seen: PrimarySeen) -> str:
    return {
        Seen.OK: "answers",
        Seen.SILENT: "silent",
        Seen.FAILED: "not reachable",
        Seen.REFUSED: "refuses",
        Seen.UNKNOWN: "not looked at",
    }[seen.host]


def _process(seen: PrimarySeen) -> str:
    return {
        Seen.OK: "answers",
        Seen.REFUSED: "gone (connection refused)",
        Seen.SILENT: "silent",
        Seen.FAILED: "breaks connections off",
        Seen.UNKNOWN: "not looked at",
    }[seen.process]


def _sql(view: View) -> str:
    ago = f", last answer {seconds(view.sql_s)} ago" if view.sql_s is not None else ", never answered"
    match view.seen.sql:
        case Seen.OK:
            took = f" in {view.seen.sql_ms:.0f} ms" if view.seen.sql_ms is not None else ""
            return f"answers{took}"
        case Seen.REFUSED:
            return f"refused{ago}"
        case Seen.SILENT:
            return f"silent{ago}"
        case Seen.FAILED:
            return f"failed{ago}"
        case Seen.UNKNOWN:
            return "not looked at"


def _write(seen: PrimarySeen) -> str:
    waits = {
        Waits.STORES: "waits for the stores",
        Waits.DISK: "waits for the disk",
        Waits.OTHER: "waits",
        Waits.NOTHING: "silent",
    }
    if seen.write is Seen.OK and seen.write_age_s:
        return f"went through {seconds(seen.write_age_s)} before"
    return {Seen.OK: "goes through", Seen.SILENT: waits[seen.waits]}.get(seen.write, seen.write.value)


def _draas(scene: Scene) -> str:
    changed = f", its beacon changed {seconds(scene.draas_s)} ago" if scene.draas_s is not None else ""
    words = {Seen.OK: f"is {scene.draas.state}", Seen.SILENT: "is silent", Seen.REFUSED: "was stopped"}
    return f"the DRaaS server {words.get(scene.draas.seen, 'is not to be told of')}{changed}"


def _stores(scene: Scene) -> str:
    answering = [name for name, answers in scene.stores.items() if answers]
    silent = scene.silent_stores
    if not silent:
        return f"{names(answering)} answer us"
    return f"of the stores {names(silent)} silent, {names(answering) if answering else 'none'} answering"


def names(which: Iterable[str]) -> str:
    """``S1, S2 and S3``."""
    found = list(which)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def seconds(age: float) -> str:
    return f"{age:.1f} s"
