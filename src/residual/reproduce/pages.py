"""Writes the pages in `docs/` that are made from the files in `results/` alone."""

import json
from pathlib import Path
from typing import Any

from ..bench.page import speed_page
from ..errors import RunError
from ..runtime.files import write_text
from .compute import PICTURE, all_series
from .compute_figure import error_against_compute
from .cost_page import PICTURE as COST_PICTURE
from .cost_page import cost_page, scenarios
from .figures import figure_4, figure_6, figure_7
from .imagenette_page import imagenette_page, in_figure
from .models_page import models_page
from .page import figure_title, results_page, trained_alike, whole_runs
from .paper_page import paper_page
from .reliability_page import load_faults, reliability_page
from .results import load_results
from .scaling_figure import scaling_figure


def write_pages(results: Path, output: Path) -> list[Path]:
    """Write the pages for which there are result files; return the files written.

    Raises:
        RunError: there are no result files, one of them is corrupted, or a page cannot be written.
    """
    try:
        benches = {path.name: json.loads(path.read_text()) for path in sorted(results.glob("bench/*.json"))}
        runs, photographs = (load_results(results / name) for name in ("cifar10", "imagenette"))
        faults = load_faults(results / "faults")
        if not any((benches, runs, photographs, faults)):
            raise RunError(f"no result files in {results}")
        output.mkdir(parents=True, exist_ok=True)
        written = []
        if benches:
            write_text(output / "speed.md", speed_page(benches))
            write_text(output / "cost.md", cost_page(benches))
            scaling_figure(scenarios(), output / COST_PICTURE)
            written += [output / "speed.md", output / "cost.md", output / COST_PICTURE]
        written += _write_results(runs, output) if runs else []
        written += _write_imagenette(photographs, output) if photographs else []
        if runs:
            write_text(output / "models.md", models_page(runs, photographs, benches))
            write_text(output / "paper.md", paper_page(runs, photographs))
            written += [output / "models.md", output / "paper.md"]
        if faults:
            written.append(output / "reliability.md")
            write_text(written[-1], reliability_page(faults))
        return written
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"cannot make the pages: {type(error).__name__}: {error}") from error


def _write_results(runs: list[dict[str, Any]], output: Path) -> list[Path]:
    """Write the page of results and its figures."""
    written = [output / "results.md"]
    write_text(written[0], results_page(runs))
    for recipe, alike in trained_alike(runs).items():
        for number, draw in ((6, figure_6), (7, figure_7)):
            written.append(output / f"figure{number}-{recipe}.png")
            draw(alike, written[-1], figure_title(alike[0]))
    written.append(output / PICTURE)
    error_against_compute(all_series(whole_runs(runs)), written[-1])
    return written


def _write_imagenette(runs: list[dict[str, Any]], output: Path) -> list[Path]:
    """Write the page of Imagenette and its figure, for which runs of all networks are needed."""
    written = [output / "imagenette.md"]
    write_text(written[0], imagenette_page(runs))
    groups = in_figure(runs)
    if groups:
        written.append(output / "imagenette.png")
        figure_4(groups, written[-1])
    return written
