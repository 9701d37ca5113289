"""What to do next, read off the figures of a run: a sentence for each thing, the most urgent first."""

from ..evaluation.classification import Evaluation
from ..evaluation.metrics import wilson_interval
from .outcome import Outcome

WIDE = 4.0  # percentage points of an interval, above which two models are hard to tell apart
MANY = 5  # test images of a class, below which its error says nothing
GAP = 10.0  # percentage points of test error above training error that hint at overfitting
UNDERFIT = 10.0  # percent of the training images that are wrong, above which training was too short
POOR = 50.0  # percent of them above which nothing else that the network says is worth much
CREDIBLE = 0.2  # share of labels that may look wrong before the network is more likely to be


def advice(outcome: Outcome) -> list[str]:
    """Return at least one sentence."""
    found = [*_leaks(outcome), *_labels(outcome), *_fit(outcome), *_class(outcome), *_interval(outcome.test)]
    return found or ["Nothing stands out: the network fits its images, and the test set is large enough."]


def verdict(outcome: Outcome) -> str:
    """Say in a sentence what the error means, beside that of always naming the most frequent class."""
    test = outcome.test
    low, high = test.error_interval
    largest = max(map(sum, test.confusion))
    guess = 100 * (test.images - largest) / test.images
    right = round(100 - test.error)
    return (
        f"The network is right for {right} in 100 test images: its error is between {low:.1f} and "
        f"{high:.1f} % (95 % confidence), where always naming "
        f"the most frequent class would give {guess:.0f} %."
    )


def trusts_suspects(outcome: Outcome) -> bool:
    """Tell whether the network is good enough for labels that look wrong to it to be worth a look."""
    return len(outcome.suspects) <= CREDIBLE * outcome.looked_at and outcome.training_error < POOR


def _leaks(outcome: Outcome) -> list[str]:
    count = len({test for _, test in outcome.findings.leaks})
    if not count:
        return []
    images = "1 test image has" if count == 1 else f"{count:,} test images have"
    return [
        f"{images} near-duplicates among the training images, so the error is too low: "
        "remove them from one side."
    ]


def _labels(outcome: Outcome) -> list[str]:
    suspects, conflicts = len(outcome.suspects), len(outcome.findings.conflicts)
    found = []
    if conflicts:
        groups = "1 group" if conflicts == 1 else f"{conflicts:,} groups"
        found.append(f"Settle {groups} of near-duplicates with different labels.")
    if suspects and trusts_suspects(outcome):
        labels = "1 label that looks" if suspects == 1 else f"{suspects:,} labels that look"
        found.append(f"Check {labels} wrong: the report shows the worst.")
    return found


def _fit(outcome: Outcome) -> list[str]:
    trained, tested = outcome.training_error, outcome.test.error
    if trained >= UNDERFIT:
        return [
            f"The network is still wrong for {trained:.1f} % of its own training images: train longer "
            "(--epochs), or take a larger network or larger images."
        ]
    if tested - trained >= GAP and outcome.test.error_interval[0] > trained:
        return [
            f"The network knows its training images ({trained:.1f} % wrong) far better than new ones "
            f"({tested:.1f} %): more images would help most, or pretrained weights (--weights)."
        ]
    return []


def _class(outcome: Outcome) -> list[str]:
    """Name the class that is surely worse than the rest; of several, that with fewest training images."""
    test, counts = outcome.test, outcome.training_images
    worse = []
    for label, row in enumerate(test.confusion):
        images = sum(row)
        if images >= MANY and wilson_interval(images - row[label], images)[0] > test.error:
            worse.append((counts[label], label))
    if not worse or outcome.training_error >= POOR:
        return []
    count, label = min(worse)
    return [
        f"More images of '{outcome.class_names[label]}' would help: {test.per_class_error[label]:.0f} % of "
        f"its test images are wrong, and it has {count:,} training images."
    ]


def _interval(test: Evaluation) -> list[str]:
    low, high = test.error_interval
    if high - low <= WIDE:
        return []
    return [
        f"With {test.images:,} test images the error is known to within {high - low:.1f} points (95 %), too "
        f"few to tell two similar models apart: about {4 * test.images:,} would halve that."
    ]
