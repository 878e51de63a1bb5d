"""``ldm-run push``: a run on the Hugging Face Hub, or in a folder as it would be there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ldm_core.cli import argument, command, installed, option
from ldm_core.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ldm_plugin_hub.card import Stated


@attrs.frozen(kw_only=True)
class PushOptions:
    """The run, the target, and the statements of its maker."""

    run: str = argument("RUN", "Folder or URL of a finished run.", completes="folder")
    to: str = argument("hf://OWNER/NAME|FOLDER", "The repository, or a folder of this machine.", completes="folder")
    licence: str = option(
        "",
        "Licence of the weights by the Hub's id; `other` with the next two.",
        metavar="ID",
        group="Card",
        otherwise="asked for",
    )
    licence_name: str = option("", "Name of another licence.", metavar="NAME", group="Card", otherwise="none")
    licence_link: str = option("", "Its address.", metavar="URL", group="Card", otherwise="none")
    title: str = option("", "Title of the card.", metavar="TEXT", group="Card", otherwise="the name")
    about: str = option("", "A few sentences below it.", metavar="TEXT", group="Card", otherwise="none")
    dataset: tuple[str, ...] = option(
        (), "Data on the Hub that it was trained on; repeat.", metavar="OWNER/NAME", group="Card"
    )
    data_licence: str = option(
        "", "Licence of the data, in words.", metavar="TEXT", group="Card", otherwise="not stated"
    )
    tag: tuple[str, ...] = option((), "A further tag; repeat.", metavar="TAG", group="Card")
    evaluation: tuple[str, ...] = option(
        (),
        "Figures of `ldm-run evaluate`: folder or evaluation.json; repeat.",
        metavar="PATH",
        group="Card",
        completes="file",
    )
    public: bool = option(False, "Make a new repository public; by itself it is private.", group="Upload")
    message: str = option("Upload a run of ldm-core", "Message of the commit.", metavar="TEXT", group="Upload")
    dry_run: bool = option(False, "Say what would be uploaded, with the card, and upload nothing.", group="Upload")
    json: bool = json_option()


@command(
    PushOptions,
    examples=[
        "ldm-run push runs/demo hf://me/shapes --licence mit",
        "ldm-run push runs/demo ./folder --licence cc-by-4.0 --about 'Coloured shapes.'",
        "ldm-run push runs/demo hf://me/shapes --licence mit --dry-run",
    ],
)
def push(options: PushOptions) -> int:
    """Upload a finished run: weights as they are, and a model card with parts, data sheet, figures with their protocol,
    samples with prompts and seeds, and the licence as you state it. `ldm-run sample` takes the address. A new
    repository is private; everything goes in one commit. To a folder the same files are written."""
    from ldm_core import storage
    from ldm_core.cli.output import reporting, say, warnings_as_lines
    from ldm_plugin_hub import licences, targets
    from ldm_plugin_hub.card import card
    from ldm_plugin_hub.run import read

    with reporting(options.json) as document, warnings_as_lines():
        licences.require(options.licence, options.licence_name, options.licence_link)
        name = targets.repository(options.to)
        if name and not options.dry_run:
            targets.require_token()
        elif not name:
            targets.require_folder(options.to)
        catalog = installed()
        run = read(options.run, catalog, options.evaluation)
        text = card(run, _stated(options, name), catalog)
        whole = targets.Push({**run.weights, **run.files, "README.md": text.encode()})
        sizes = {each: whole.size(each) for each in sorted(whole.files)}
        _warn_of(run.places)
        if not options.dry_run and name:
            place = targets.to_hub(whole, name, public=options.public, message=options.message)
        elif not options.dry_run:
            place = targets.to_folder(whole, options.to)
        document.update(
            status="done", target=storage.shown(options.to), files=sizes, places=list(run.places), card=text
        )
        document.update(uploaded=not options.dry_run, **({} if options.dry_run else {"place": place}))
        if not options.json:
            for each, size in sizes.items():
                say(f"{size:>13,}  {each}", longest=4096)
            say(text if options.dry_run else place, longest=1 << 20)
    return 0


def _stated(options: PushOptions, name: str) -> Stated:
    """The statements of the command line."""
    from ldm_core import storage
    from ldm_core.errors import ConfigError, clean
    from ldm_plugin_hub.card import Stated

    for each in options.dataset:
        if each.count("/") != 1 or not all(each.split("/")):
            raise ConfigError(f"--dataset: expected OWNER/NAME, got '{clean(each, 60)}'")
    own = name.rpartition("/")[2] or storage.base_name(options.to.rstrip("/"))
    return Stated(
        target=f"hf://{name}" if name else storage.base_name(options.to.rstrip("/")),
        title=options.title or own,
        licence=options.licence,
        licence_name=options.licence_name,
        licence_link=options.licence_link,
        about=options.about,
        data=options.dataset,
        data_licence=options.data_licence,
        tags=options.tag,
    )


def _warn_of(places: Sequence[str]) -> None:
    """Name the places of this machine in the headers of the weights."""
    import warnings

    if places:
        few = "; ".join(places[:3]) + (f"; and {len(places) - 3} more" if len(places) > 3 else "")
        warnings.warn(
            f"the recipe in the weights' header names places, which others will read: {few}", UserWarning, stacklevel=2
        )
