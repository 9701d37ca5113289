#!/usr/bin/env bash
# Runs all tests and measurements that need a GPU, in under ten minutes by its time limits. Not yet run as a whole.
#   scripts/gpu.sh DATA OUT    DATA holds cifar-10-batches-bin/; a log and an archive of all figures go to OUT
# All steps are run, whatever fails; the exit status is 0 if all succeeded.
set -uo pipefail
data=$1 out=$2
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
work=$(mktemp -d)
status=0
try() { timeout "$@" || { echo "exit status $?: ${*:2}"; status=1; }; }
run() { try "$1" python3 -m residual "${@:2}" --device cuda; }
bench() { run "$1" bench train "$2" --repeats "$3" --save "$work/bench"; }
mkdir -p "$out"
{
    echo "== the captured step equals the eager one, is used, and resumes bit-exactly"
    try 100 python3 -m pytest -q -W default "$root/tests/test_captured.py" -p no:cacheprovider
    echo "== milliseconds per step: captured, compiled, eager, and the baseline"
    bench 100 resnet20 5
    echo "== one ResNet-20 by the paper's recipe in full, on tensor cores"
    run 150 train resnet20 --data-dir "$data" --curve test --set precision=bfloat16 --output "$work/resnet20" --verbose
    echo "== several runs at once"
    run 60 bench jobs --repeats 3 --save "$work/bench"
    bench 60 resnet56 3
    bench 60 resnet110 3
    bench 60 resnet1202 1
    exit "$status"
} 2>&1 | tee "$out/gpu.log"
status=${PIPESTATUS[0]}
rm -rf "$work/resnet20/checkpoints"
tar -C "$work" -czf "$out/gpu.tar.gz" . || status=1
exit "$status"
