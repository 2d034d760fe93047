"""`threefold keys`: the master key kept, split, changed and proved. What each does is in upkeep/rewrap.py."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from threefold import bootstrap_keys
from threefold.bootstrap import open_parts
from threefold.bootstrap_keys import key_file, replace_wrapped
from threefold.cli.common import ask_opener, ask_passphrase, ask_shares, execute
from threefold.cli.options import Given, opens_the_stores
from threefold.cli.output import Output
from threefold.cli.words import table
from threefold.kernel import keyfile, secret_file
from threefold.kernel.errors import BadInput, Damaged
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Opener, Passphrase
from threefold.local.create import check_passphrase, new_passphrase
from threefold.settings import Settings
from threefold.upkeep import rewrap
from threefold.upkeep.prove_keys import Proofs, prove
from threefold.upkeep.rewrap import Split
from threefold.upkeep.wrapped import copies

app = typer.Typer(help="Keep, split, change and prove the master key.", no_args_is_help=True)

NewShares = Annotated[
    Path | None,
    typer.Option("--to", help="Write a file for each holder there, instead of showing the shares.", metavar="DIR"),
]


@app.command()
@opens_the_stores
def export(
    given: Given,
    to: Annotated[Path, typer.Option("--to", help="The file to write; it must not be there yet.", metavar="FILE")],
) -> None:
    """Write the key file: from the stores with the passphrase or two shares, or a copy of the one that is here.

    It holds the master key in the clear, and all that were in force before: it belongs on hosts that seal or open.

    [bold]Example:[/] threefold keys export --to /etc/threefold/master.key
    """
    execute(_export(given.settings(), given.output, given.opener(), to), given.output)


async def _export(found: Settings, output: Output, opener: Opener | None, to: Path) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="keys") as parts:
        secret_file.write_new(to, keyfile.encode(parts.keyring))
        facts = {"file": to, **_facts(parts.keyring)}
    output.result(facts, f"[bold]{to}[/] holds {_keys(parts.keyring)}. Only its owner may read it; leave it so.")


@app.command()
@opens_the_stores
def split(given: Given, to: NewShares = None) -> None:
    """Make three shares, any two of which open the master key in the stores. Shares that were made before end.

    They are shown once, or written into a file for each holder. The key stays the same and so does the passphrase.

    [bold]Example:[/] threefold keys split --to /mnt/stick
    """
    execute(_split(given.settings(), given.output, given.opener(), to), given.output)


async def _split(found: Settings, output: Output, opener: Opener | None, to: Path | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="keys") as parts:
        there = await copies(parts.all_stores, parts.keyring)
        rewrap.none_newer(there, parts.keyring)
        made = rewrap.new_split()
        _hand_out(found, output, made, to)
        work = rewrap.Rewrap(parts.all_stores, parts.keyring, output.note)
        await work.run([made.opener], rewrap.of_kind(there, made.opener))
    facts = {"split": made.opener.split, "to": to, "needed": 2, "of": 3, **_facts(parts.keyring)}
    output.result(facts, f"Any two of the shares of splitting {made.opener.split} open the key, in every store.")


@app.command()
@opens_the_stores
def rotate(
    given: Given,
    key: Annotated[bool, typer.Option("--key", help="Prepare a new master key.")] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Put the prepared key into force.")] = False,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="A new passphrase for the same key.")] = False,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="The new passphrase; absent: one is made and shown once.", metavar="FILE")
    ] = None,
    new_shares: Annotated[
        bool, typer.Option("--new-shares", help="With --key: new shares instead of the ones that are out.")
    ] = False,
    to: NewShares = None,
) -> None:
    """Change the master key from now on (--key, then --activate), or the passphrase alone (--passphrase).

    No data is written anew. A new key seals what comes from the next epoch on; what was sealed before stays readable,
    and stays readable as well for whoever has the old key. A new passphrase does not help against who kept the old
    passphrase and a copy of the old wrapped key: that takes a new key.

    [bold]Examples:[/]

    threefold keys rotate --key        # then copy the key file to every host

    threefold keys rotate --activate   # then restart threefold protect
    """
    output = given.output
    if key + activate + passphrase != 1:
        raise BadInput("which rotation is not said", hint="--key, then --activate; or --passphrase; see --help")
    found = given.settings()
    if activate:
        execute(_activate(found, output), output)
    elif key:
        execute(_key(found, output, given.passphrase_file, given.share_files, to, new_shares=new_shares), output)
    else:
        opener = given.opener()
        execute(_passphrase(found, output, opener, new_passphrase_file), output)


async def _key(
    found: Settings,
    output: Output,
    passphrase_file: Path | None,
    share_file: list[Path] | None,
    to: Path | None,
    *,
    new_shares: bool,
) -> None:
    path = key_file(found)
    async with open_parts(found, verb="keys") as parts:
        there = await copies(parts.all_stores, parts.keyring)
        rewrap.none_newer(there, parts.keyring)
        openers: list[Opener] = []
        if rewrap.has(there, by_shares=False) or not rewrap.has(there, by_shares=True):
            openers.append(_present_passphrase(passphrase_file))
        if rewrap.has(there, by_shares=True) and not new_shares:
            openers.append(_present_shares(share_file))
        await rewrap.check(there, parts.keyring, openers)
        # First into the file, so that the key is never in the stores alone; it is not in force there.
        ring = rewrap.prepared(parts.keyring)
        secret_file.replace(path, keyfile.encode(ring))
        if new_shares:
            made = rewrap.new_split()
            _hand_out(found, output, made, to)
            openers.append(made.opener)
        await rewrap.Rewrap(parts.all_stores, ring, output.note).run(openers, there)
        _keep_wrapped(found, ring, openers)
    facts = {"prepared": ring.newest, "in_force": ring.key_id, "file": path}
    output.result(
        facts,
        f"Key [bold]{ring.newest}[/] is prepared: it lies in every store, locked, and in {path}.\n"
        f"Nothing is sealed with it yet. Copy {path} to every host that has one (the second DRaaS server, the other "
        "site's agent, sentinels, the CRM), restart what runs there, then: threefold keys rotate --activate",
    )


def _present_passphrase(file: Path | None) -> Passphrase:
    given = bootstrap_keys.passphrase_from(file) if file else bootstrap_keys.passphrase_of_environment()
    phrase = given or ask_passphrase("Recovery passphrase: ")
    if phrase is None:
        raise BadInput("the passphrase is needed to lock the new key with", hint="--passphrase-file FILE")
    check_passphrase(phrase.text)
    return phrase


def _present_shares(files: list[Path] | None) -> Opener:
    given = bootstrap_keys.shares_from(files) if files else ask_shares()
    if given is None:
        raise BadInput(
            "two shares are needed to lock the new key with",
            hint="--share-file FILE twice, or --new-shares to make new ones",
        )
    return given


async def _activate(found: Settings, output: Output) -> None:
    path = key_file(found)
    async with open_parts(found, verb="keys") as parts:
        ring = parts.keyring
        if not ring.prepared:
            raise BadInput(f"no key is prepared; {ring.key_id} is in force", hint="first: threefold keys rotate --key")
        there = await copies(parts.all_stores, parts.keyring)
        rewrap.none_newer(there, ring)
        rewrap.stands(there, ring, list(parts.all_stores))
        secret_file.replace(path, keyfile.encode(ring.activated()))
    facts = {"in_force": ring.newest, "before": ring.key_id, "file": path}
    output.result(
        facts,
        f"Key [bold]{ring.newest}[/] is in force on this host from the next epoch on: restart threefold protect. "
        f"What was sealed with {ring.key_id} stays readable. Copy {path} to the other hosts again.",
    )


async def _passphrase(found: Settings, output: Output, opener: Opener | None, new: Path | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="keys") as parts:
        there = await copies(parts.all_stores, parts.keyring)
        rewrap.none_newer(there, parts.keyring)
        phrase = bootstrap_keys.passphrase_from(new) if new else Passphrase(new_passphrase())
        check_passphrase(phrase.text)
        if new is None:
            _show(output, "passphrase", {"passphrase": phrase.text}, f"New recovery passphrase:  {phrase.text}")
        work = rewrap.Rewrap(parts.all_stores, parts.keyring, output.note)
        await work.run([phrase], rewrap.of_kind(there, phrase))
        _keep_wrapped(found, parts.keyring, [phrase])
    output.result(
        _facts(parts.keyring),
        f"The new passphrase opens key {parts.keyring.newest}, in every store; the old one opens nothing there any "
        "more.\nWhoever kept the old passphrase and a copy of the old wrapped key still opens it: against that, "
        "threefold keys rotate --key.",
    )


@app.command()
@opens_the_stores
def verify(given: Given) -> None:
    """Prove that what you keep opens what lies in each store, without showing it.

    With a passphrase or two shares: each wrapped key is opened with it. Without: the key file is tried. Then the keys
    are tried on real data of each store. Exit code 1 where something does not open.

    [bold]Example:[/] threefold keys verify --share-file anna.share --share-file bilal.share
    """
    execute(_verify(given.settings(), given.output, given.opener()), given.output)


async def _verify(found: Settings, output: Output, opener: Opener | None) -> None:
    async with open_parts(found, opener=opener, ask=ask_opener, verb="keys") as parts:
        proofs = await prove(parts.stores, parts.clock, parts.keyring, opener)
        facts = {**_facts(parts.keyring), "proofs": [asdict(each) for each in proofs.proofs], "good": proofs.good}
    rows = table("store", "what", "", "")
    for each in proofs.proofs:
        rows.add_row(each.store, each.what, each.found.value, each.detail)
    output.result(facts, rows, _summed_up(proofs))
    if not proofs.good:
        raise _not_good(proofs)


def _summed_up(proofs: Proofs) -> str:
    if not proofs.good:
        return ""
    if not proofs.complete:
        return "What could be checked opens. What is not checked: try it with the passphrase (--passphrase-file)."
    return "[green]Everything opens.[/]"


def _not_good(proofs: Proofs) -> Damaged:
    bad = [
        each for each in proofs.proofs if each.found not in {"opens", "nothing there yet", "replaced", "not checked"}
    ]
    told = "; ".join(f"{each.what} on {each.store}: {each.found.value}" for each in bad)
    return Damaged(f"not everything opens: {told}", hint="what to do is in docs/howto/keep-the-key.md")


def _hand_out(found: Settings, output: Output, made: Split, to: Path | None) -> None:
    """Before the old shares end: who is interrupted has the old ones or the new ones."""
    for number, words in enumerate(made.shares, start=1):
        title = f"share {number} of 3, two are needed; {found.system.name}, splitting {made.opener.split}"
        if to is not None:
            path = to / f"{found.system.name}-{made.opener.split}-{number}.share"
            secret_file.write_new(path, f"# threefold: {title}\n{words}\n")
            output.note(f"{path} written")
        else:
            _show(output, "share", {"number": number, "words": words}, f"{title}\n    {words}\n")


def _show(output: Output, kind: str, facts: dict[str, object], text: str) -> None:
    if output.as_json:
        output.line(kind, facts)
    else:
        typer.echo(text)


def _keep_wrapped(found: Settings, ring: Keyring, openers: list[Opener]) -> None:
    for opener in openers:
        if isinstance(opener, Passphrase):
            replace_wrapped(found, rewrap.wrapped(ring, opener))


def _facts(ring: Keyring) -> dict[str, object]:
    return {"in_force": ring.key_id, "keys": ring.ids, "prepared": ring.newest if ring.prepared else None}


def _keys(ring: Keyring) -> str:
    before = len(ring.ids) - 1 - ring.prepared
    return f"key {ring.key_id}" + (f" and {before} before it" if before else "")
