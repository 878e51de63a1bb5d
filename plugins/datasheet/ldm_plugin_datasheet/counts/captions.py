"""Lengths, doubles and words of captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ldm_core.data.records.sources import Captions as Several
from ldm_plugin_datasheet.facts import Captions, Span

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")  # letters and digits of any script
_WORDS, _DOUBLES = 20, 5  # of each, those that are listed
_LONGEST = 200  # letters of a caption that is listed


def captions(values: Iterable[str]) -> Captions:
    """The captions of pictures, one value a picture."""
    texts: Counter[str] = Counter()
    frequent: Counter[str] = Counter()
    pictures = several = 0
    words: list[int] = []
    letters: list[int] = []
    for value in values:
        own = value.texts if isinstance(value, Several) else (value,)
        pictures += 1
        several += len(own) > 1
        for text in own:
            found = _WORD.findall(text.casefold())
            texts[" ".join(text.split())] += 1
            frequent.update(set(found))
            words.append(len(found))
            letters.append(len(text))
    empty = texts.pop("", 0)
    doubles = sorted(((text, n) for text, n in texts.items() if n > 1), key=lambda each: (-each[1], each[0]))
    return Captions(
        pictures=pictures,
        texts=len(words),
        several=several,
        empty=empty,
        doubled=sum(n for _, n in doubles),
        doubles=[(text[:_LONGEST], n) for text, n in doubles[:_DOUBLES]],
        words=Span.of(words),
        letters=Span.of(letters),
        frequent=sorted(frequent.items(), key=lambda each: (-each[1], each[0]))[:_WORDS],
    )
