"""The order of waiting jobs: clients take turns, by their addresses first, then by their own names.

So a client gains nothing by many requests, nor by many names. A turn is one batch.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
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
        clients: dict[Client, deque[Job]] = {}
        for job in jobs:
            if job.left:
                clients.setdefault(job.client, deque()).append(job)
        turn, found, arrival = self._turn, list[Job](), itertools.count()
        addresses: dict[str, list[tuple[int, int, Client]]] = {}
        for client in clients:
            own = (self._last.get(client, 0), next(arrival), client)
            heapq.heappush(addresses.setdefault(client[0], []), own)
        turns = [(self._last.get(address, 0), next(arrival), address) for address in addresses]
        heapq.heapify(turns)
        while turns:
            _, number, address = turns[0]
            _, own_number, client = addresses[address][0]
            found.append(clients[client].popleft())
            turn += 1
            if clients[client]:
                heapq.heapreplace(addresses[address], (turn, own_number, client))
            else:
                heapq.heappop(addresses[address])
            if addresses[address]:
                heapq.heapreplace(turns, (turn, number, address))
            else:
                heapq.heappop(turns)
        return found

    def places(self, jobs: Iterable[Job]) -> dict[str, int]:
        """The places of waiting jobs by their ids, from 1 on."""
        waiting = [job for job in self.sort(jobs) if job.state == "queued"]
        return {job.id: place for place, job in enumerate(waiting, 1)}

    def took(self, job: Job) -> None:
        """Its client has had a turn."""
        self._turn += 1
        for key in (job.client[0], job.client):
            self._last[key] = self._turn
            self._last.move_to_end(key)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
