"""A comparison as plain values, for JSON."""

from typing import Any

from .contest import Outcome

Record = dict[str, Any]


def make_record(
    kind: str, name: str, batch_size: int, found: dict[str, Outcome], fast: str, others: Any
) -> Record:
    """Put rates and ratios of a comparison together: `fast` is set against each of the others."""
    others = [other for other in others if other in found]  # those that failed are in no ratio
    return {
        "kind": kind,
        "network": name,
        "batch_size": batch_size,
        "images_per_second": {who: outcome.as_dict() for who, outcome in found.items()},
        "ratios": {f"{fast} / {other}": vars(found[fast].ratio_to(found[other])) for other in others},
    }
