"""The order of waiting jobs: clients take turns, by their addresses first, then by their own names.

So a client gains nothing by many requests, nor by many names. A turn is one batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ldm_plugin_serve.work.job import Client, Job

_REMEMBERED = 4096  # clients whose last turn is known


class Order:
    """Remembers the last turn of each address, and of each client."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: OrderedDict[str | Client, int] = OrderedDict()

    def sort(self, jobs: Iterable[Job]) -> list[Job]:
        """All jobs with images left, in the order of their next turns; `jobs` come in the order of their arrival."""
        waiting = [job for job in jobs if job.left]
        turn, last, found = self._turn, dict(self._last), list[Job]()
        by_client: dict[Client, list[Job]] = {}
        for job in waiting:
            by_client.setdefault(job.client, []).append(job)
        while by_client:
            client = min(by_client, key=lambda one: (last.get(one[0], 0), last.get(one, 0)))
            found.append(by_client[client].pop(0))
            turn += 1
            last[client[0]] = last[client] = turn
            if not by_client[client]:
                del by_client[client]
        return found

    def took(self, job: Job) -> None:
        """Its client has had a turn."""
        self._turn += 1
        for key in (job.client[0], job.client):
            self._last[key] = self._turn
            self._last.move_to_end(key)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
