"""The cost of a run on many GPUs: the arithmetic, its simulation, two ranks that train, command and page."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from residual.bench import cluster
from residual.bench.contest import Outcome, Spread
from residual.bench.cost import BUCKET, Link, Machine, Run, Step, estimate, step_on
from residual.bench.page import table_of
from residual.bench.ranks import Case, bench_ranks, fit_link, predict
from residual.bench.scaling import simulate
from residual.bench.suites import run_suites
from residual.models.complexity import complexity
from residual.recipes.catalog import get_recipe
from residual.reproduce.cost_page import RANKS, cost_page, scenarios
from residual.reproduce.scaling_figure import scaling_figure

ROOT = Path(__file__).resolve().parent.parent
LINK = Link(bandwidth=1e9, latency=1e-4)
RUN = Run(
    25_000_000, iterations=1000, batch_size=256, evaluate_every=100, evaluated=640, checkpoint_every=250
)
MACHINE = Machine(
    step_seconds=((1, 0.02), (8, 0.02), (64, 0.1), (256, 0.4)),
    decode_rate=200.0,
    cores=4,
    ranks=8,
    near=Link(100e9, 5e-6),
    far=Link(10e9, 1e-5),
    checkpoint_seconds=2.0,
    price=3.0,
)


def send_around_a_ring(size: float, ranks: int, link: Link) -> float:
    """Reduce-scatter and all-gather message by message: when each rank has all sums."""
    now, parts = [0.0] * ranks, [[{rank} for _ in range(ranks)] for rank in range(ranks)]
    for turn in range(2 * (ranks - 1)):
        message = link.latency + size / ranks / link.bandwidth
        sent = [(rank - turn) % ranks for rank in range(ranks)]
        carried = [set(parts[rank][sent[rank]]) for rank in range(ranks)]
        # a rank goes on when it has sent its part and has the part of the one before it
        now = [max(now[rank], now[rank - 1]) + message for rank in range(ranks)]
        for rank in range(ranks):
            parts[rank][sent[rank - 1]] |= carried[rank - 1]
    assert all(part == set(range(ranks)) for its in parts for part in its), "not all sums are everywhere"
    return max(now)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 17])
def test_the_ring_takes_as_long_as_its_messages(ranks):
    assert LINK.ring(1e8, ranks) == pytest.approx(send_around_a_ring(1e8, ranks, LINK))


def test_one_rank_reduces_nothing_and_a_tree_is_faster_only_for_little_data():
    assert LINK.reduce(1e8, 1) == MACHINE.all_reduce(1e8, 1) == MACHINE.exposed(1e8, 1, 0.1) == 0
    assert LINK.reduce(1e3, 64) == LINK.tree(1e3, 64) < LINK.ring(1e3, 64)
    assert LINK.reduce(1e9, 64) == LINK.ring(1e9, 64) < LINK.tree(1e9, 64)


def test_twice_the_bandwidth_halves_what_the_bytes_take():
    free, faster = Link(1e9, 0.0), Link(2e9, 0.0)
    for ranks in (2, 8, 64):
        assert faster.reduce(1e8, ranks) == pytest.approx(free.reduce(1e8, ranks) / 2)
        assert LINK.reduce(1e8, ranks) > free.reduce(1e8, ranks)


def test_reducing_in_buckets_hides_all_but_the_last_where_the_network_is_fast():
    size = 4 * BUCKET
    fast = MACHINE.exposed(size, 8, compute=1.0)
    assert fast == pytest.approx(MACHINE.all_reduce(BUCKET, 8))
    slow = replace(MACHINE, near=Link(1e8, 0.0))
    # a bucket takes longer than the backward pass: all follow the first, which is ready a quarter into that
    assert slow.exposed(size, 8, 0.1) == pytest.approx(
        4 * slow.all_reduce(BUCKET, 8) - 0.1 * (1 - 1 / 3 - 2 / 12)
    )
    whole = replace(slow, overlap=False)
    assert whole.exposed(size, 8, 0.1) == whole.all_reduce(size, 8) > slow.exposed(size, 8, 0.1)


def test_an_example_by_hand():
    # 2 GPUs of one machine, 128 images each: between 64 (0.1 s) and 256 (0.4 s): 0.1 + 64/192 x 0.3 = 0.2
    # arithmetic 128 x 0.4/256 = 0.2, so nothing for a small batch; loading 128/(200 x 4) = 0.16, hidden
    # 100 MB in ceil(100e6/26214400) = 4 buckets of 25 MB; the last: 2 x 1/2 x 25e6/100e9 + 2 x 5e-6 = 0.26 ms
    # evaluations: 1000/100 = 10, each 320 images, of which loading takes most: 320/800 = 0.4 s
    # checkpoints: 1000/250 = 4 of 2 s; 1000 x 0.20026 + 10 x 0.4 + 4 x 2 = 212.26 s
    # 2 GPUs x 212.26/3600 h x 3 = 0.353767; one GPU takes max(0.4, 256/800) = 0.4: efficiency 0.2/0.20026
    found = estimate(RUN, MACHINE, 2)
    assert vars(found.step) == pytest.approx(vars(Step(0.2, 0.0, 0.0, 0.0, 0.00026)), abs=1e-12)
    assert (found.seconds, found.price) == pytest.approx((212.26, 0.3537667))
    assert (found.images_per_second, found.efficiency) == pytest.approx((1278.338, 0.998702))
    assert (found.local, found.step.limit) == (128, "arithmetic")


def test_time_falls_and_money_rises_with_the_gpus_and_efficiency_never_exceeds_one():
    found = [estimate(RUN, MACHINE, ranks) for ranks in (1, 2, 4, 8, 16, 64)]
    for fewer, more in pairwise(found):
        assert more.price > fewer.price
        assert more.efficiency < fewer.efficiency <= 1
    assert found[0].seconds > found[1].seconds > found[2].seconds > found[3].seconds
    assert found[-1].step.limit == "small_batch", "4 images take as long as 8"


def test_ranks_beyond_the_images_of_a_batch_do_nothing_but_cost():
    many, enough = (estimate(RUN, replace(MACHINE, checkpoint_seconds=0.0), ranks) for ranks in (512, 256))
    assert many.step == enough.step
    assert many.price > enough.price


def test_a_batch_that_grows_is_the_same_images_in_fewer_steps():
    grown = RUN.with_local(64, 16)  # 1,024 images instead of 256
    assert (grown.batch_size, grown.iterations, grown.evaluate_every) == (1024, 250, 25)
    weak = estimate(RUN, MACHINE, 16, local=64)
    assert weak.local == 64
    assert weak.efficiency > estimate(RUN, MACHINE, 16).efficiency


def test_loading_limits_where_cores_or_the_store_are_too_slow():
    one_core = replace(MACHINE, cores=1)
    assert step_on(RUN, one_core, 8).seconds == pytest.approx(32 / 200)
    assert step_on(RUN, one_core, 8).limit == "loading"
    store = replace(MACHINE, read_rate=1000.0)
    assert step_on(RUN, store, 8).seconds == pytest.approx(256 / 1000)
    by_itself = replace(MACHINE, cores=0)
    assert step_on(RUN, by_itself, 8).seconds == pytest.approx(
        MACHINE.compute(32) + 32 / 200 + step_on(RUN, MACHINE, 8).all_reduce
    )


@pytest.mark.parametrize("changes", [{}, {"cores": 1}, {"cores": 0}, {"read_rate": 900.0}])
@pytest.mark.parametrize("ranks", [1, 8, 200])
def test_without_jitter_the_simulation_is_the_formula(changes, ranks):
    machine = replace(MACHINE, **changes)
    assert vars(simulate(RUN, machine, ranks, 0.0)) == pytest.approx(vars(step_on(RUN, machine, ranks)))


def test_more_ranks_wait_longer_for_the_slowest():
    waits = [simulate(RUN.with_local(64, n), MACHINE, n, 0.1).stragglers for n in (2, 32, 1024)]
    assert waits == sorted(waits)
    # the largest of 1,024 normal numbers is 3.2 on average
    assert waits[-1] == pytest.approx(0.1 * (math.exp(0.1 * 3.2) - 1), rel=0.1)
    assert simulate(RUN, MACHINE, 1, 0.1).stragglers < 0.005


def test_a_buffer_hides_loading_that_varies_but_is_fast_enough_on_average():
    run = RUN.with_local(64, 4)
    assert simulate(run, replace(MACHINE, decode_rate=64 / 4 / 0.09), 4, 0.2).loading == 0, (
        "0.09 s against 0.1 s"
    )
    slower = replace(MACHINE, decode_rate=64 / 4 / 0.12)
    assert 0 < simulate(run, slower, 4, 0.2).loading < 0.03


def test_an_estimate_for_the_papers_run_uses_the_recipe():
    run = cluster.run_of(get_recipe("imagenet-paper", "resnet50"))
    assert run.gradients == 4 * complexity("resnet50").parameters
    assert (run.iterations, run.batch_size, run.evaluated) == (600_000, 256, 12_812)
    steps = dict(cluster.step_seconds(938.0, 50))
    assert steps[256] == pytest.approx(256 / 938)
    assert steps[1] == steps[8] == cluster.SHORTEST
    twice = cluster.rate_of(get_recipe("imagenet-paper", "resnet101")) / cluster.rate_of(
        get_recipe("imagenet-paper", "resnet50")
    )
    assert twice == pytest.approx(0.5, rel=0.1), "101 layers have about twice the multiply-adds"


def test_the_decoding_speed_is_the_one_that_was_measured():
    files = sorted(ROOT.glob("results/bench/*-decode-cpu.json"))
    record = json.loads(files[-1].read_text())["records"][0]
    assert record["images_per_second"]["ours"]["images_per_second"]["median"] == pytest.approx(
        cluster.DECODE_RATE, abs=0.5
    )


def test_latency_and_bandwidth_are_found_again_from_times():
    link = Link(2.5e9, 3e-4)
    times = {size: link.ring(size, 2) for size in (1 << 14, 1 << 20, 1 << 26)}
    assert vars(fit_link(times)) == pytest.approx(vars(link))


def test_a_prediction_adds_what_was_measured_apart():
    times = {"step": [0.2] * 8, "load": [0.05] * 8}
    run = Run(10_000_000, iterations=1, batch_size=64)
    reduce = 4e7 / 1e9 + 2 * 1e-4
    assert predict(run, 32, times, LINK) == pytest.approx(64 / (0.2 + 0.05 + reduce))


@pytest.mark.slow
def test_two_ranks_train_and_the_model_is_set_beside_them():
    records = bench_ranks(1, [Case("resnet8", 32, 4, 2)])
    ranks, save = records
    assert (ranks["kind"], ranks["batch_size"], ranks["gradient_bytes"]) == (
        "ranks",
        8,
        4 * complexity("resnet8").parameters,
    )
    assert ranks["ratio"]["median"] == pytest.approx(
        ranks["predicted"]["median"] / ranks["measured"]["median"]
    )
    assert save["bytes"] > 2 * 4 * complexity("resnet50").parameters
    assert "predicted / measured" in "\n".join(table_of(ranks).as_lines())


def test_the_command_prints_what_the_model_says(cli):
    code, out, _ = cli("cost", "--gpus", "1,8", "--images-per-second", "1000", "--price", "2", "--json")
    one, eight = json.loads(out)
    assert (code, one["ranks"], eight["ranks"], eight["local"]) == (0, 1, 8, 32)
    assert one["step"]["seconds"] == pytest.approx(256 / 1000)
    assert one["price"] == pytest.approx(2 * one["seconds"] / 3600)
    code, out, _ = cli("cost", "--step-times", "256=0.5,32=0.1", "--gpus", "8", "--jitter", "0.1")
    assert code == 0
    assert "small batch" in out
    assert "stragglers" in out


def test_measured_steps_are_what_the_command_takes(monkeypatch, cli):
    """Here with a stand-in for the contest: a step takes 0.05 s and 0.01 s for each image."""

    def compare(contestants, steps, repeats, batch_size):
        work, arguments = contestants[""]
        next(work(**arguments | {"name": "resnet8"}))  # one real step
        rate = batch_size / (0.05 + 0.01 * batch_size)
        return {"": Outcome(Spread.of([rate]), 1, [rate])} if batch_size < 8 else {}

    monkeypatch.setattr("residual.bench.suites.compare", compare)
    (record,) = run_suites("steps", ["resnet18"], torch.device("cpu"), 1)
    sentence = table_of(record).sentences[0]
    assert sentence == "residual cost resnet18 --step-times 1=0.06,2=0.07,4=0.09"
    code, out, _ = cli(*sentence.split()[1:], "--gpus", "64", "--json")
    assert code == 0
    assert json.loads(out)[0]["step"]["small_batch"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", "1,none"), "--gpus must be whole numbers"),
        (("--gpus", "0"), "--gpus must be whole numbers"),
        (("--gpus", "1000000000"), "--gpus must be whole numbers up to 100,000"),
        (("--step-times", "256:1"), "--step-times must be like"),
        (("--step-times", "256=nan"), "--step-times must be like"),
        (("--price", "-1"), "--price must be above 0"),
        (("--bandwidth", "nan"), "--bandwidth must be above 0"),
        (("--precision", "int8"), "no rate for the precision int8"),
        (("resnet20", "--recipe", "paper"), "is for recipes for ImageNet"),
        (("resnet50", "--recipe", "imagenette"), "is for recipes for ImageNet"),
    ],
)
def test_the_command_refuses_in_one_line(cli, arguments, words):
    code, out, err = cli("cost", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_the_committed_page_is_what_is_generated_and_has_the_measurement(tmp_path):
    benches = {path.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("results/bench/*.json"))}
    page = cost_page(benches)
    assert page == (ROOT / "docs" / "cost.md").read_text()
    assert "predicted / measured" in page
    assert "Not measured yet" in cost_page({})
    found = scenarios()
    assert all([one.ranks for one in estimates] == list(RANKS) for estimates in found.values())
    limits = {one.step.limit for estimates in found.values() for one in estimates}
    assert limits >= {"arithmetic", "small_batch", "loading", "all_reduce"}
    scaling_figure(found, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_is_within_a_quarter_of_what_two_ranks_did():
    benches = {path.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("results/bench/*.json"))}
    newest = [b for b in benches.values() if any(r["kind"] == "ranks" for r in b["records"])][-1]
    ratios = [r["ratio"]["median"] for r in newest["records"] if r["kind"] == "ranks"]
    assert len(ratios) == 3
    assert all(0.75 < ratio < 1.25 for ratio in ratios)
