"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of_this = {"registry": self.registry}
        self.requests = Counter(
            "residual_requests", "Requests by path and status.", ("path", "status"), **of_this
        )
        self.seconds = Histogram(
            "residual_request_seconds", "Time to answer.", ("path",), buckets=SECONDS, **of_this
        )
        self.in_progress = Gauge("residual_requests_in_progress", "Requests in progress.", **of_this)
        self.images = Counter(
            "residual_images", "Images by model and outcome.", ("model", "outcome"), **of_this
        )
        self.waiting = Gauge("residual_images_waiting", "Images in the queue.", ("model",), **of_this)
        self.batch_size = Histogram(
            "residual_batch_size", "Images that shared a batch.", ("model",), buckets=SIZES, **of_this
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)
