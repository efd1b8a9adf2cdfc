"""`musev models …` and `musev plugins`: which models there are, and how they come here.

Imports musev_engine's registry, which is light, when a verb runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

EXIT_CODES = """exit status:
  0  done
  1  it failed; the message says why (the hub, the disk, a folder)
  2  the arguments are wrong, or the name of an added file is taken
  3  no known model has this id
  4  the licence was not accepted
  5  offline mode, and it would need the network
  6  the model, or a file of it, isn't here
  7  a file isn't what it should be (size or sha256), or an added one is of no kind that this engine can use
  8  a clip that an engine is to make needs the model, or another process is at work on its files
"""
STATUS = {
    "unknown_model": 3,
    "licence_not_accepted": 4,
    "offline": 5,
    "missing_model": 6,
    "wrong_hash": 7,
    "bad_model": 7,
    "wrong_kind": 7,
    "name_taken": 2,
    "bad_name": 2,
    "model_in_use": 8,
    "model_busy": 8,
}


def models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EXIT_CODES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.set_defaults(run=list_models, role=None, installed=False)
    verbs = parser.add_subparsers(metavar="VERB")

    def verb(name, run, text):
        one = verbs.add_parser(name, help=text, description=text)
        one.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON value"
        )
        one.set_defaults(run=run)
        return one

    listing = verb("list", list_models, "list the models this engine knows (also without a verb)")
    listing.add_argument("--role", help="only these: motion, t2i, vae, controlnet, annotator, lora, ...")
    listing.add_argument("--installed", action="store_true", help="only those that are here")
    verb("show", show, "tell all that is known of one model").add_argument("id")
    get = verb("download", download, "get models from the hub, once their licence is accepted")
    get.add_argument("id", nargs="+")
    get.add_argument("--accept-licence", action="store_true", help="accept the licences that are shown")
    get.add_argument("--endpoint", help="another hub's address (default: $HF_ENDPOINT, else the public hub)")
    get.add_argument("--offline", action="store_true", help="never touch the network (as HF_HUB_OFFLINE=1)")
    verb("verify", verify, "read models and compare their hashes").add_argument(
        "id", nargs="*", help="default: all that are here"
    )
    drop = verb("remove", remove, "delete models from the models folder")
    drop.add_argument("id", nargs="+")
    drop.add_argument("--yes", action="store_true", help="don't ask")
    verb("path", path, "print the models folder, and the folders that were added, one a line")
    new = verb(
        "add", add, "copy a model's file into the models folder, or use the models of another folder too"
    )
    new.add_argument("path", type=Path, help="a file, or a folder in MuseV's layout such as its checkpoints")
    new.add_argument("--name", help="what the file will be called (default: by its own name)")
    kinds = ("t2i", "lora", "embedding", "vae", "ip-adapter", "controlnet")
    new.add_argument(
        "--as", dest="role", choices=kinds, default="", help="what it is (default: what it seems)"
    )
    new.add_argument("--title", default="", help="a line that says what it is good for")
    new.add_argument(
        "--licence", default="", help="its licence's name, which goes into every take (default: unknown)"
    )
    new.add_argument("--licence-url", default="", help="where the licence stands")
    new.add_argument(
        "--commercial", action=argparse.BooleanOptionalAction, help="whether one may sell what it makes"
    )
    new.add_argument(
        "--stands-for", default="", metavar="ID", help="the known ControlNet in whose place one is used"
    )


def models(args: argparse.Namespace) -> int:
    from musev_engine.errors import EngineError

    try:
        return args.run(args)
    except EngineError as error:
        told = {"code": error.code, "message": error.message, "value": error.value, "remedy": error.remedy}
        print(json.dumps({"error": told}) if args.json else f"musev models: {error}", file=sys.stderr)
        return STATUS.get(error.code, 1)
    except OSError as error:
        print(f"musev models: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmusev models: stopped; the same command goes on from here.", file=sys.stderr)
        return 1


def list_models(args: argparse.Namespace) -> int:
    from musev_engine import registry
    from server.models import models_here

    rows = [*_shipped().values(), *(_told(model) for model in registry.listing().values())]
    rows = [
        row for row in rows if args.role in (None, row["role"]) and (row["installed"] or not args.installed)
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.0f} MB" if row["size_bytes"] else "?"
        there = "here" if row["installed"] else "-"
        print(f"{row['id']:34} {row['role']:14} {size:>8}  {there:5} {row['licence'] or 'licence not known'}")
    print(f"\n{sum(row['installed'] for row in rows)} of {len(rows)} are here; the folder: musev models path")
    ready = [model.name for model in models_here() if model.installed]
    print(f"Clips can be made with: {', '.join(ready)}")
    return 0


def show(args: argparse.Namespace) -> int:
    from musev_engine import registry

    if (row := _shipped().get(args.id)) is not None:
        told = f"{row['id']} ({row['role']}): {row['about']}\nlicence: {row['licence']}\n  {row['files'][0]['path']}"
        print(json.dumps(row) if args.json else told)
        return 0
    model = registry.model(args.id)
    row, paths = _told(model), registry.here(model)
    if args.json:
        print(json.dumps(row))
        return 0
    print(f"{model.id} ({model.role}): {model.about}")
    if model.added:
        print("added by a file" + (f"; its words: {model.trigger}" if model.trigger else ""))
    else:
        print(f"from {model.source}" + ("" if model.url else f", revision {model.revision}"))
    print(f"licence: {model.terms}")
    for file in model.files:
        where = (
            paths.get(file.name) or f"not here; goes to {registry.models_folder() / model.folder / file.name}"
        )
        size = f"{file.size:,} bytes" if file.size else "size not known"
        print(f"  {file.name}: {size}, sha256 {file.sha256 or 'not known'}\n    {where}")
    return 0


def download(args: argparse.Namespace) -> int:
    from musev_engine import downloads, registry

    if args.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    shipped = _shipped().keys() & set(args.id)
    for id in shipped:
        print(f"{id} came with this engine", file=sys.stderr)
    wanted = [registry.model(id) for id in args.id if id not in shipped]
    missing = [model for model in wanted if not registry.installed(model.id)]
    if lost := next((model for model in missing if model.added), None):
        registry.find(lost.id)  # which says that its file is to be added again
    for model in wanted:
        if model not in missing:
            print(f"{model.id} is here already: {registry.find(model.id)}", file=sys.stderr)
    for model in missing:
        print(f"{model.id}: {model.terms}", file=sys.stderr)
    if missing and not downloads.offline():
        _accepted(args, missing)
    for model in missing:
        remotes = downloads.look_up(model, args.endpoint)
        size = sum(remote.size for remote in remotes) / 1e6
        print(f"{model.id}: {len(remotes)} files, {size:,.1f} MB", file=sys.stderr)
        folder = downloads.fetch(model, remotes)
        print(f"{model.id} is in {folder}", file=sys.stderr)
    if args.json:
        print(json.dumps([_told(model) for model in wanted]))
    return 0


def verify(args: argparse.Namespace) -> int:
    from musev_engine import registry

    _not_shipped(args.id)
    ids = args.id or [id for id, model in registry.listing().items() if registry.complete(model)]
    verdicts = {id: registry.verify(id) for id in ids}
    if args.json:
        print(json.dumps(verdicts))
    else:
        for id, files in verdicts.items():
            for name, verdict in files.items():
                what = "there, with no hash to compare it with" if verdict == "not known" else verdict
                print(f"{id}: {name}: {what}")
        if not ids:
            print("No known model is here.", file=sys.stderr)
    said = {verdict for files in verdicts.values() for verdict in files.values()}
    if said - {"ok", "not known", "missing"}:
        return 7
    return 6 if "missing" in said else 0


def remove(args: argparse.Namespace) -> int:
    from musev_engine import downloads, registry
    from musev_engine.errors import EngineError
    from server import in_use

    _not_shipped(args.id)
    wanted = [registry.model(id) for id in args.id]
    root = registry.models_folder()
    for model in wanted:
        paths = registry.here(model)
        elsewhere = [path for path in paths.values() if not path.is_relative_to(root)]
        if not paths or elsewhere:
            where = (
                f"it is in {elsewhere[0].parent}, which isn't ours to empty" if elsewhere else "it isn't here"
            )
            raise EngineError(
                "This model can't be removed", f"{model.id}: {where}", "See: musev models list --installed",
                "missing_model",
            )  # fmt: skip
        in_use.check(model.id)
    if not args.yes and not _yes(f"Delete {', '.join(args.id)} from {root}?"):
        raise EngineError(
            "Nothing was deleted", ", ".join(args.id), "Say yes, or give --yes.", "not_confirmed"
        )
    for model in wanted:
        in_use.check(model.id)  # once more: the question may have stood for long
        gone = downloads.remove(model)
        print(f"{model.id}: {len(gone)} files deleted", file=sys.stderr)
    return 0


def path(args: argparse.Namespace) -> int:
    from musev_engine import registry

    found = [str(folder) for folder in registry.folders()]
    print(json.dumps(found) if args.json else "\n".join(found))
    return 0


def add(args: argparse.Namespace) -> int:
    from musev_engine import registry

    if args.path.is_file():
        return _add_file(args)
    held = registry.add_folder(args.path)
    print(json.dumps(held) if args.json else f"{args.path} holds {', '.join(held)}")
    return 0


def _add_file(args: argparse.Namespace) -> int:
    from musev_engine import added, kinds

    size = args.path.stat().st_size
    wanted = added.Wanted(
        args.name or added.name_of(str(args.path)), args.path.suffix.lower(), size, args.role, args.title, args.licence,
        args.licence_url, args.commercial, args.stands_for,
    )  # fmt: skip

    def told(done: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == size else "\r"
            print(f"{done / 1e6:,.0f} of {size / 1e6:,.0f} MB", end=end, file=sys.stderr, flush=True)

    model = added.add_file(args.path, wanted, told)
    print(f"{model.id} is here as {kinds.ROLES[model.role]}; licence: {model.terms}", file=sys.stderr)
    if args.json:
        print(json.dumps(_told(model)))
    return 0


def _shipped() -> dict[str, dict]:
    """What came with the engine and needs no download, told as `_told` tells of a KnownModel."""
    from server.models import ASSETS, engine_version, models_here

    rows = {}
    for model in models_here():
        if model.source == "shipped":
            files = [
                {"name": "", "size_bytes": model.size_bytes, "sha256": None, "path": str(ASSETS / model.name)}
            ]
            rows[model.name] = {
                "id": model.name, "role": "shipped", "about": "the embedded model: whole, needs no download",
                "repository": "", "revision": engine_version(), "url": "", "size_bytes": model.size_bytes,
                "licence": model.licence, "licence_url": "", "commercial": None, "installed": True, "added": False,
                "trigger": "", "files": files,
            }  # fmt: skip
    return rows


def _not_shipped(ids: list[str]) -> None:
    """Raises EngineError for the model that is a part of the engine, which is neither compared nor removed."""
    from musev_engine.errors import EngineError

    if came := _shipped().keys() & set(ids):
        raise EngineError(
            "This model came with the engine", min(came), "Install the engine again to have it anew."
        )


def _told(model) -> dict:
    """A KnownModel for a script."""
    from musev_engine import registry

    paths = registry.here(model)
    return {
        "id": model.id,
        "role": model.role,
        "about": model.about,
        "repository": model.repository,
        "revision": model.revision,
        "url": model.source,
        "size_bytes": model.size,
        "licence": model.licence,
        "licence_url": model.licence_url,
        "commercial": model.commercial,
        "installed": len(paths) == len(model.files),
        "added": model.added,
        "trigger": model.trigger,
        "files": [
            {
                "name": file.name,
                "size_bytes": file.size,
                "sha256": file.sha256,
                "path": str(paths[file.name]) if file.name in paths else None,
            }
            for file in model.files
        ],
    }


def _accepted(args: argparse.Namespace, missing: list) -> None:
    """Return if the licences are accepted. Raises EngineError, code "licence_not_accepted"."""
    from musev_engine.errors import EngineError

    if args.accept_licence or _yes("Do you accept these licences?"):
        return
    raise EngineError(
        "The licence was not accepted, and nothing was downloaded",
        ", ".join(model.id for model in missing),
        "Read it, then give --accept-licence, or answer yes.",
        code="licence_not_accepted",
    )


def _yes(question: str) -> bool:
    """Ask, where there is someone to answer."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [yes/no] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("yes", "y")


# --- plugins ------------------------------------------------------------------------------------------


def plugins_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "exit status: 0, or 1 if one of them is broken"
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--check", action="store_true", help="import the engine's own too (torch, for some)")


def plugins(args: argparse.Namespace) -> int:
    """List what is registered. Other packages' are imported to see that they work, in processes of their own."""
    from musev_engine import plugins as registered

    rows = []
    for plugin in registered.tried():
        ours = plugin.package == registered.OURS
        problem = plugin.fault() if args.check and ours else plugin.problem
        row = {"name": plugin.name, "group": plugin.group, "package": plugin.package}
        rows.append(row | {"version": plugin.version, "ok": not problem, "problem": problem})
    if args.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            where = f"{row['package']} {row['version']}"
            print(f"{row['name']:32} {row['group']:28} {where:28} {row['problem'] or 'ok'}")
    return 0 if all(row["ok"] for row in rows) else 1
