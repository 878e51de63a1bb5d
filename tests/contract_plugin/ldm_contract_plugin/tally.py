"""``ldm-run tally``: a command that the core has never heard of."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import attrs

from ldm_core import LDMError
from ldm_core.cli import argument, command, option


@attrs.frozen(kw_only=True)
class TallyOptions:
    """Prompts, and what is counted in them."""

    prompts: tuple[str, ...] = argument("PROMPT...", "Prompts whose words are counted.")
    by: Literal["word", "letter"] = option("word", "What is counted.", group="Counting")
    most: int | None = option(None, "Rows of the table.", metavar="N", minimum=1, group="Counting", otherwise="all")
    skip: tuple[str, ...] = option((), "A word that does not count; may be repeated.", metavar="WORD", group="Counting")
    fail: bool = option(False, "Make a mistake that the user can fix.")


@command(TallyOptions, examples=["ldm-run tally 'a red circle' 'a blue square' --most 3"])
def tally(options: TallyOptions) -> int:
    """Count the words of prompts."""
    if options.fail:
        raise LDMError("tally: --fail was given; leave it out")
    text = " ".join(options.prompts)
    words = Counter(text.split() if options.by == "word" else text)
    rows = [(word, count) for word, count in words.most_common() if word not in options.skip]
    for word, count in rows[: options.most]:
        print(count, word)
    return 0 if rows else 3


not_a_command = tally.callback
