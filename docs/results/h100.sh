#!/usr/bin/env bash
# The GPU campaign: every table of docs/results/ that a GPU gives, into the directory that is named.
#   LENET_DATA=... bash docs/results/h100.sh OUT [STAGE...]
# Stages: compile, which tunes compiled networks several at a time, so that they are only loaded after; then campaign,
# repeat and floor, the suite's rows; check, scripts of one table each; train. Without a stage all run, on an H100 in
# some 20 minutes where the host is quiet. A run of the suite that takes too long is ended as by Ctrl-C: its rows are kept.
set -uo pipefail
out=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD
backends=(pytorch pytorch-compile pytorch-cudagraph fused)
sizes=(1 10 100 1000 10000)
longest=${LENET_LONGEST:-600} # seconds of a run of the suite

suite() { # NAME OPTION...
  timeout --signal=INT "$longest" python3 -m pytest benchmarks/test_inference.py benchmarks/test_transfer.py \
    "${backends[@]/#/--backend=}" --benchmark-save="$1" --benchmark-save-data "--benchmark-storage=file://$out" \
    --protocol=adaptive --time-limit=2 "${@:2}" -q > "$out/$1.log"
  tail -n 1 "$out/$1.log"
}

rows() { # NAME: all that is compared
  suite "$1" "${sizes[@]/#/--batch-size=}" --precision={fp32,tf32,fp16,bf16,fp16x2} --host-memory={pinned,pageable}
}

[ $# -gt 0 ] || set -- compile campaign repeat floor check train
for one in "$@"; do
  case $one in
  compile)
    python3 docs/results/warm_compile.py "${sizes[@]}"
    python3 docs/results/warm_compile.py 1 1000 10000 fp32 fp16 uint8
    ;;
  campaign)
    rows campaign
    python3 -m lenet results --markdown "$out"/*/*_campaign.json > "$out/h100.md"
    ;;
  repeat)
    rows repeat
    python3 docs/results/repeatability.py "$out"/*/*_campaign.json "$out"/*/*_repeat.json > "$out/repeatability-h100.md"
    ;;
  floor) # bytes, and the host's memory read by the kernel
    suite floor --batch-size={1,1000,10000} --precision={fp32,fp16,fp16x2} --input={float32,uint8} \
      --host-memory={pinned,zero-copy}
    python3 -m lenet results --markdown "$out"/*/*_floor.json > "$out/floor-h100.md"
    ;;
  check)
    python3 docs/results/timer_check.py > "$out/timer-h100.md"
    python3 docs/results/placement.py > "$out/placement-h100.md"
    python3 docs/results/fused_check.py > "$out/fused-h100.md"
    for tool in memcheck racecheck; do
      compute-sanitizer --tool "$tool" python3 docs/results/fused_check.py --few
    done > "$out/sanitizer-h100.txt" 2>&1
    python3 -m pytest benchmarks/test_overhead.py "${backends[@]/#/--backend=}" -q | tee "$out/overhead-h100.txt"
    python3 docs/results/parity.py "${backends[@]}" > "$out/parity-h100.md"
    ;;
  train) python3 docs/results/train_h100.py > "$out/train-h100.md" ;;
  *)
    echo "there is no stage $one: compile, campaign, repeat, floor, check, train" >&2
    exit 2
    ;;
  esac
done
