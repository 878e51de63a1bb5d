"""Figures of a server for Prometheus, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 600)


class Figures:
    """Counters and distributions; :meth:`text` is the answer of ``/metrics``."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "ldm_serve_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.jobs = Counter("ldm_serve_jobs", "Ended jobs.", ["state"], registry=registry)
        self.refused = Counter("ldm_serve_refused", "Refused requests, by the reason.", ["reason"], registry=registry)
        self.images = Counter("ldm_serve_images", "Sampled images.", ["model"], registry=registry)
        self.seconds = Counter("ldm_serve_sampling_seconds", "Time of the sampler.", ["model"], registry=registry)
        self.queue = Gauge("ldm_serve_queue", "Waiting jobs.", registry=registry)
        self.loaded = Gauge("ldm_serve_models_loaded", "Models in memory.", registry=registry)
        self.batch = Histogram("ldm_serve_batch", "Images of a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=registry)
        self.waited = Histogram(
            "ldm_serve_wait_seconds", "From request to sampler.", buckets=_SECONDS, registry=registry
        )
        self.took = Histogram("ldm_serve_job_seconds", "From request to result.", buckets=_SECONDS, registry=registry)

    def sampled(self, model: str, images: int, seconds: float) -> None:
        """A batch is done."""
        self.images.labels(model).inc(images)
        self.seconds.labels(model).inc(seconds)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)
