"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "residual_requests", "Requests by path and status.", ("path", "status"), registry=own
        )
        self.seconds = Histogram(
            "residual_request_seconds", "Time to answer.", ("path",), buckets=SECONDS, registry=own
        )
        self.in_progress = Gauge("residual_requests_in_progress", "Requests in progress.", registry=own)
        self.images = Counter(
            "residual_images", "Images by model and outcome.", ("model", "outcome"), registry=own
        )
        self.waiting = Gauge("residual_images_waiting", "Images in the queue.", ("model",), registry=own)
        self.batch_size = Histogram(
            "residual_batch_size", "Images that shared a batch.", ("model",), buckets=SIZES, registry=own
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)
