"""Reproduction: what is planned and left out, what a stop loses, pages of measured numbers only."""

import json
import re
from pathlib import Path

import pytest
import torch

import residual
from residual.errors import RunError, UsageError
from residual.models.complexity import complexity
from residual.recipes.catalog import get_recipe, recipe_label
from residual.recipes.schema import from_dict
from residual.reproduce import pages
from residual.reproduce.campaign import reproduce
from residual.reproduce.compute import all_series, training_compute
from residual.reproduce.compute_figure import OURS
from residual.reproduce.page import results_page, trained_alike
from residual.reproduce.paper_facts import WHOLE
from residual.reproduce.plan import Budget, plan
from residual.reproduce.reliability_page import FAULTS, load_faults, reliability_page
from residual.reproduce.responses import layer_responses
from residual.reproduce.results import load_results, result_path, save_result
from residual.training.run_folder import Run

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "results" / "cifar10"
PIPE = "\\|"  # in a cell of a table


def tiny(count=3, **changes):
    settings = {"iterations": 6, "batch_size": 32, "checkpoint_every": 2, **changes}
    return [get_recipe("demo", "resnet8").replace({**settings, "seed": seed}) for seed in range(count)]


def test_the_plan_is_seed_by_seed_and_the_cheapest_first():
    planned = [
        (recipe.network, recipe.seed) for recipe in plan("table6", "paper", ["resnet56", "resnet20"], 2)
    ]
    assert planned == [("resnet20", 0), ("resnet56", 0), ("resnet20", 1), ("resnet56", 1)]
    assert {recipe.stop_after for recipe in plan("figure6", "paper")} == {2000}
    assert all(recipe.iterations == 64_000 for recipe in plan("figure6", "paper"))
    with pytest.raises(UsageError):
        plan("figure9", "paper")
    with pytest.raises(UsageError, match="for ImageNet, table6 is of CIFAR-10: choose resnet44, resnet56"):
        plan("table6", "paper", ["resnet20", "resnet50"])
    with pytest.raises(UsageError, match="choose paper, fast, faster, strong, best"):
        plan("headlines", "demo")  # its digits would stand among the errors on CIFAR-10


def test_a_changed_recipe_never_passes_for_the_papers(tmp_path):
    paper = get_recipe("paper", "resnet20")
    assert recipe_label(paper.replace({"seed": 3, "curve": "test", "capture": False})) == "paper"
    changed = paper.replace({"precision": "bfloat16"})
    assert recipe_label(changed) == "paper, precision=bfloat16"
    assert result_path(tmp_path, changed) != result_path(tmp_path, paper)
    fast = get_recipe("fast", "resnet20")  # leaves the precision to the device, so none is a change
    assert fast.precision == "auto"
    assert {recipe_label(fast.replace({"precision": p})) for p in ("float32", "bfloat16")} == {"fast"}
    assert recipe_label(paper.replace({"shortcut": "B"})) == "paper, shortcut=B"
    own = residual.Recipe(name="mine")
    assert result_path(tmp_path, own) != result_path(tmp_path, own.replace({"iterations": 5}))
    assert result_path(tmp_path, paper.replace({"stop_after": 5})) != result_path(tmp_path, paper)


def test_every_run_leaves_one_file_and_is_not_repeated(tmp_path):
    folders = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    written = reproduce(tiny(2), **folders)
    assert len(written) == 2
    record = json.loads(written[0].read_text())
    keys = {
        "error",
        "training_error",
        "seconds",
        "images_per_second",
        "hardware",
        "versions",
        "commit",
        "command",
    }
    assert keys <= record.keys()
    assert len(record["responses"]) == 7
    assert str(tmp_path) not in written[0].read_text()
    before = {path: path.read_bytes() for path in written}
    said = []
    assert [path.name for path in reproduce(tiny(3), **folders, say=said.append)] == [
        result_path(Path(), tiny(3)[2]).name
    ]
    assert said[0] == "2 of 3 runs have a result; 1 to train"
    assert {path: path.read_bytes() for path in written} == before


@pytest.mark.slow
def test_a_budget_that_is_over_saves_what_is_in_progress_and_the_next_call_goes_on(tmp_path):
    folders = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    recipes = tiny(2, iterations=40)
    first = tmp_path / "runs" / result_path(Path(), recipes[0]).stem

    class Over(Budget):
        def __init__(self):
            super().__init__(None)

        def spent(self):
            return bool(list(first.glob("checkpoints/*.pt")))

    assert reproduce(recipes, **folders, budget=Over()) == []
    assert Run.open(first).result is None
    assert len(reproduce(recipes, **folders)) == 2
    resumed = json.loads((first / "environment.json").read_text())["resumed"]
    assert len(resumed) == 1
    assert resumed[0]["step"] > 0


def test_a_run_folder_of_another_recipe_gives_no_result(tmp_path, capfd):
    folders = {"results": tmp_path / "results", "runs": tmp_path / "runs"}
    residual.train(
        tiny(1)[0].replace({"optimizer.momentum": 0.5}),
        output=tmp_path / "runs" / result_path(Path(), tiny(1)[0]).stem,
    )
    said = []
    with pytest.raises(RunError, match="1 of 2 runs failed: resnet8-demo"):
        reproduce(tiny(2), **folders, say=said.append)
    assert [path.name for path in (tmp_path / "results").iterdir()] == [result_path(Path(), tiny(2)[1]).name]
    assert "exit code 5" in said[1]
    assert "optimizer.momentum: 0.5 -> 0.9" in capfd.readouterr().err


def test_budgets():
    assert not Budget.parse("2h").spent()
    assert Budget.parse("0s").spent()
    assert not Budget.parse(None).spent()
    for text in ("25", "m", "", "ten m", "nanm", "-5m", "infh"):
        with pytest.raises(UsageError):
            Budget.parse(text)


def test_responses_are_those_before_relu_and_addition(tmp_path):
    residual.train(tiny(1)[0], output=tmp_path / "run")
    network = residual.load_model(tmp_path / "run")
    split = residual.load_dataset("digits").test
    found = layer_responses(network, split)
    x = network.config.normalization.apply(split.images).permute(0, 3, 1, 2)
    with torch.no_grad():
        first = network.bn1(network.conv1(x))
        inner = network.layer1[0].bn1(network.layer1[0].conv1(first.relu()))
    assert found[:2] == pytest.approx([float(first.std()), float(inner.std())], rel=1e-4)
    assert len(found) == 7


def test_the_page_says_what_is_open_and_what_is_not_reached():
    run = {"network": "resnet20", "recipe": "fast", "seed": 0, "iterations": 10, "schedule_iterations": 10}
    run |= {"training_error": 5.0, "seconds": 60, "images_per_second": 900, "commit": "abc"}
    run |= {"shortcut": "A", "batch_size": 256, "hardware": {"cpu": "a processor", "threads": 2}}
    page = results_page([{**run, "error": 8.0}, {**run, "seed": 1, "error": 10.0}])
    row = "| resnet20 | 0.27 M | 8.75 | fast | 2 | **9.00** | +- 1.41 | 8.00 |  | a processor, 2 threads"
    assert f"{row} | no, 0.25 above |" in page
    assert "| resnet44 | 0.66 M | 7.17 | | 0 | | | | | | open |" in page
    assert "- Open: no full run yet of resnet32, resnet44, resnet56, resnet110, resnet1202." in page
    assert "Open: the paper's own schedule" in page
    assert "Open: the paper's own schedule" not in results_page([{**run, "error": 8.0, "recipe": "paper"}])
    cut = results_page([{**run, "error": 8.0, "iterations": 4}])
    assert "**8.00**" not in cut, "a run that was cut short is no result"
    assert "4 of 10" in cut
    changed = results_page([{**run, "error": 8.0, "recipe": "fast, optimizer.momentum=0.8"}])
    assert "**8.00**" not in changed, "a changed recipe is no recipe of this project"
    assert "| resnet20 | fast, optimizer.momentum=0.8 | 0 | 10 | 8.00 |" in changed


def test_table_6_has_cpu_time_every_machine_and_the_interval_of_a_single_seed():
    run = {"network": "resnet20", "recipe": "fast", "seed": 0, "iterations": 10, "schedule_iterations": 10}
    run |= {"training_error": 5.0, "seconds": 60, "images_per_second": 900, "commit": "abc", "error": 8.0}
    run |= {"shortcut": "A", "batch_size": 256, "hardware": {"gpu": "a GPU"}, "cpu_seconds": 90.0}
    resumed = {**run, "resumed": [{"hardware": {"cpu": "a processor", "threads": 1}, "commit": "def"}]}
    page = results_page([resumed])
    both = "a GPU; a processor, 1 thread"
    assert f"| 1 | **8.00** | 7.48 to 8.55 | 8.00 | 1.5 | {both} | yes; one seed |" in page
    assert f"| fast | **8.00** | 1 | 60 | {both} | yes |" in page
    assert f"| 60 | 900 | {both} | abc; def |" in page
    assert "| +- 0.00 | 8.00 | 2.0 | a GPU | yes |" in results_page([run, {**run, "cpu_seconds": 150.0}])
    assert "| +- 0.00 | 8.00 | 1.5 | a GPU | yes |" in results_page([run, {**run, "cpu_seconds": None}])
    half = results_page([{**run, "recipe": "paper, precision=bfloat16"}])
    assert "| paper, precision=bfloat16 | 1 | **8.00** |" in half
    assert "the paper's own schedule, only resnet20 was run to its end." in half
    assert "**8.00**" not in results_page([{**run, "recipe": "paper, shortcut=B"}])


def test_small_early_images_count_at_their_size():
    whole = training_compute("resnet20", "A", 1000)
    assert whole == 3 * complexity("resnet20").multiply_adds * 1000
    assert training_compute("resnet20", "A", 1000, 24, 0.0) == whole
    early = training_compute("resnet20", "A", 1000, 24, 1.0)
    assert early / whole == pytest.approx((24 / 32) ** 2, rel=1e-4)  # but for the last layer
    assert training_compute("resnet20", "A", 1000, 24, 0.6) == pytest.approx(0.6 * early + 0.4 * whole)
    run = {"network": "resnet20", "recipe": "strong", "iterations": 10, "batch_size": 100, "error": 8.0}
    run |= {"shortcut": "A", "recipe_in_full": {"augment": {"early_size": 24, "early_share": 0.6}}}
    assert all_series([run])[0].points[0].compute == training_compute("resnet20", "A", 1000, 24, 0.6)
    assert len(OURS) >= len(WHOLE), "a colour for each recipe in the picture"


def test_depths_are_compared_only_where_all_else_is_alike():
    run = {"recipe": "fast", "seed": 0, "iterations": 10, "schedule_iterations": 10, "error": 9.0}
    run |= {"seconds": 60, "images_per_second": 900, "commit": None, "hardware": {"gpu": "a GPU"}}
    run |= {"shortcut": "A", "batch_size": 256}

    def trained(network, error, **changes):
        return {**run, "network": network, "training_error": error, **changes}

    page = results_page([trained("resnet20", 5.0), trained("resnet56", 4.0), trained("plain20", 6.0)])
    assert "| resnet | fast | 10 | 5.00 |  |  | 4.00 |  |" in page
    assert "| plain | fast" not in page, "one depth alone compares nothing"
    others = [trained("resnet56", 4.0, iterations=9), trained("resnet56", 1.0, seed=1)]
    others += [trained("resnet14", 6.0)]  # no column, so nothing to set beside the other
    others += [trained("resnet56", 3.0, recipe="paper"), trained("resnet47_bottleneck", 2.0)]
    assert "| resnet | fast | 10 | 5.00" not in results_page([trained("resnet20", 5.0), *others])


@pytest.mark.slow
def test_a_long_curve_is_thinned_and_keeps_its_last_point(tmp_path):
    residual.train(tiny(1, iterations=400, log_every=1)[0], output=tmp_path / "run")
    record = json.loads(save_result(tmp_path, Run.open(tmp_path / "run")).read_text())
    steps = [step for step, _ in record["curve"]["train"]]
    assert 100 < len(steps) <= 160
    assert steps[-1] == 400
    assert len(set(torch.tensor(steps).diff().tolist())) == 1


def test_marks_stand_where_a_figure_is_not_what_it_seems():
    run = {"network": "resnet20", "recipe": "fast", "seed": 0, "iterations": 10, "schedule_iterations": 10}
    run |= {"error": 9.0, "training_error": 5.0, "seconds": 60, "images_per_second": 900}
    run |= {"hardware": {"gpu": "a GPU"}, "commit": "0123456789abcdef+changes"}
    run |= {"shortcut": "A", "batch_size": 256}
    page = results_page([run, {**run, "seed": 1, "seconds": 80, "disturbed": True}])
    assert "| fast | **9.00** | 2 | 70 \\* |" in page
    assert "| 9.00 | 5.00 | 60 | 900 |" in page
    assert "| 9.00 | 5.00 | 80 \\* | 900 |" in page
    assert "| 0123456789+changes |" in page, "code that was edited is no commit"


@pytest.mark.parametrize("text", ["[]", "{", "{}", "3"])
def test_a_corrupted_result_file_is_named(tmp_path, text):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "x.json").write_text(text)
    with pytest.raises(RunError, match="corrupted"):
        pages.write_pages(tmp_path, tmp_path)


def test_the_figures_show_the_longest_runs_that_all_their_nets_had():
    alike = {"seed": 0, "recipe": "paper", "iterations": 4, "schedule_iterations": 10}
    nets = ("resnet56", "plain56", "plain20", "resnet20")
    short = [{**alike, "network": name} for name in nets]
    long = [{**run, "iterations": 10} for run in short]
    others = [{**run, "recipe": "fast, muon=1", "iterations": 9} for run in short]
    assert trained_alike(short[:3]) == {}
    assert trained_alike([*short, *long[:3]])["paper"] == [short[2], short[3], short[0], short[1]]
    both = trained_alike([*long, {**long[0], "seed": 1}, *short, *others])
    assert {name: {run["iterations"] for run in runs} for name, runs in both.items()} == {
        "paper": {10},
        "fast": {9},
    }
    assert [len(runs) for runs in both.values()] == [4, 4]


def test_every_file_is_named_by_what_its_recipe_is_today():
    for path in STORED.glob("*.json"):
        assert path == result_path(STORED, from_dict(json.loads(path.read_text())["recipe_in_full"]))


def test_the_page_of_results_comes_from_the_files_alone(tmp_path):
    if not list(STORED.glob("*.json")):
        pytest.skip("no results yet")
    pages.write_pages(ROOT / "results", tmp_path)
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()
    figures = re.findall(r"\(([a-z0-9-]*\.png)\)", (tmp_path / "results.md").read_text())
    assert {"figure6-paper.png", "figure7-paper.png", "error-against-compute.png"} <= set(figures)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in figures)
    assert len(load_results(STORED)) == len(list(STORED.glob("*.json")))


@pytest.mark.parametrize(
    ("points", "error", "drawn"),
    [
        ([[7700, 3.0], [7800, 2.0], [7812, 5.0]], 260 / 112, [[7700, 3.0], [7812, 260 / 112]]),
        ([[7600, 3.0], [7700, 2.0], [7800, 5.0]], 5.0, [[7600, 3.0], [7700, 2.0], [7800, 5.0]]),  # whole
        ([[7412, 3.0], [7612, 2.0], [7812, 5.0]], 5.0, [[7412, 3.0], [7612, 2.0], [7812, 5.0]]),  # thinned
        ([[12, 5.0]], 5.0, [[12, 5.0]]),
    ],
)
def test_a_short_last_window_of_the_training_error_counts_with_the_one_before(tmp_path, points, error, drawn):
    stored = json.loads((STORED / "resnet20-strong-seed0.json").read_text())
    stored |= {"training_error": 5.0, "curve": {"train": points, "test": [[7812, 7.8]]}}
    (tmp_path / "one.json").write_text(json.dumps(stored))
    (loaded,) = load_results(tmp_path)
    assert loaded["training_error"] == pytest.approx(error)
    assert loaded["curve"] == {"train": [pytest.approx(point) for point in drawn], "test": [[7812, 7.8]]}


def test_the_page_of_reliability_comes_from_the_files_alone(tmp_path):
    pages.write_pages(ROOT / "results", tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert page == (ROOT / "docs" / "reliability.md").read_text()
    stored = load_faults(ROOT / "results" / "faults")
    assert all(f"| {record['case'].replace('|', PIPE)} | {record['tries']:,} |" in page for record in stored)
    assert page.count("Not tested.") == len(FAULTS.keys() - {record["fault"] for record in stored})


def test_a_fault_without_a_result_file_is_named_as_not_tested():
    case = {"fault": 5, "case": "cut | bent", "tries": 1_200, "happened": "said", "lost": "nothing"}
    page = reliability_page([{**case, "hardware": "a CPU", "version": "1.0"}])
    assert f"| cut {PIPE} bent | 1,200 | said | nothing |" in page
    assert page.count("Not tested.") == len(FAULTS) - 1
    assert "a CPU; residual 1.0." in page


def test_the_pages_are_made_by_a_target_that_trains_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("residual.reproduce.campaign.reproduce", lambda *_, **__: pytest.fail("trained"))
    arguments = ("reproduce", "pages", "--results", ROOT / "results", "--output", tmp_path)
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [str(tmp_path / name) for name in ("speed.md", "cost.md")]
    for option, value in (("--models", "resnet20"), ("--budget", "25m"), ("--set", "seed=1")):
        code, out, err = cli(*arguments, option, value)
        assert (code, out) == (2, "")
        assert f"leave {option} out" in err
    code, _, err = cli("reproduce", "table6", "--output", tmp_path)
    assert code == 2
    assert "residual reproduce pages" in err


def test_the_command_report_names_its_successor(cli):
    for options in ((), ("--results", "results", "--output", "docs")):
        code, out, err = cli("report", *options)
        assert (code, out, err) == (2, "", "residual: 'residual report' is now 'residual reproduce pages'\n")
    assert "report" not in cli("--help")[1]


def test_the_search_is_told_in_the_log_and_not_in_the_results():
    page = results_page([])
    assert "log.md" in page
    assert "disappointed" not in page
    log = " ".join((ROOT / "docs" / "log.md").read_text().split())
    assert "a use of the test set" in log


def test_the_log_of_the_search_gives_what_its_files_say():
    rows = (ROOT / "docs" / "log.md").read_text().replace("**", "").splitlines()
    files = sorted((ROOT / "results" / "search").glob("*.json"))
    assert files
    for path in files:
        run = json.loads(path.read_text())
        cells = f"{run['holdout_error']:.2f} | {run['holdout_loss']:.3f} | {run['training_error']:.2f} |"
        assert any(row.startswith(f"| {path.stem[0]}: ") and row.endswith(cells) for row in rows), path.name
