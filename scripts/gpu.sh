#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: correctness on CUDA first, then speed, then one run in full.
#   scripts/gpu.sh DATA OUT      DATA holds cifar-10-batches-bin/; figures, pictures and logs go to OUT
set -uo pipefail
data=$1 out=$2
export PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)/src${PYTHONPATH:+:$PYTHONPATH}"
run() { timeout "$1" python3 -m residual "${@:2}"; }
mkdir -p "$out"
# 1. the captured step equals the eager one, is what ran, and resumes to the last bit
timeout 90 python3 -m pytest -q "$(dirname "$0")/../tests/test_captured.py" -p no:cacheprovider >"$out/tests.log" 2>&1
# 2. one ResNet-20 by the paper's recipe in full
run 150 train resnet20 --data-dir "$data" --curve test --set precision=bfloat16 --output "$out/run" >"$out/run.log" 2>&1
cp "$out"/run/{result.json,environment.json,curves.png,metrics.jsonl} "$out/" 2>/dev/null && rm -rf "$out/run"
# 3. milliseconds a step, captured, compiled, eager and the baseline; several runs at once
run 150 bench train resnet20 resnet56 --repeats 5 --save "$out" --device cuda >"$out/bench.log" 2>&1
run 60 bench jobs --repeats 3 --save "$out" --device cuda >>"$out/bench.log" 2>&1
run 60 bench train resnet110 --repeats 3 --save "$out" --device cuda >>"$out/bench.log" 2>&1
run 90 bench train resnet1202 --repeats 1 --save "$out" --device cuda >>"$out/bench.log" 2>&1
tail -n 60 "$out/bench.log"
