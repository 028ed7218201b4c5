#!/usr/bin/env bash
# The GPU campaign: every table of docs/results/ that a GPU gives, in one go, into the directory that is named.
#   LENET_DATA=... bash docs/results/h100.sh OUT
# Compiled networks are tuned first, several at a time, and then only loaded. About 15 minutes on an H100.
set -uo pipefail
out=$(realpath "$1")
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD
precisions=(--precision=fp32 --precision=tf32 --precision=fp16 --precision=bf16)
backends=(pytorch pytorch-compile pytorch-cudagraph)
sizes=(1 10 100 1000 10000)

python3 docs/results/warm_compile.py "${sizes[@]}" 200
python3 docs/results/timer_check.py > "$out/timer-h100.md"
python3 -m pytest benchmarks/test_overhead.py "${backends[@]/#/--backend=}" -q | tee "$out/overhead-h100.txt"
python3 docs/results/parity.py "${backends[@]}" > "$out/parity-h100.md"
for run in campaign repeat; do
  python3 -m pytest benchmarks/test_inference.py benchmarks/test_transfer.py "${backends[@]/#/--backend=}" \
    "${sizes[@]/#/--batch-size=}" "${precisions[@]}" --host-memory=pinned --host-memory=pageable \
    --benchmark-save="$run" --benchmark-save-data "--benchmark-storage=file://$out" -q > "$out/$run.log"
done
python3 docs/results/repeatability.py "$out"/*/0001_campaign.json "$out"/*/0002_repeat.json > "$out/repeatability-h100.md"
python3 -m lenet results --markdown "$out"/*/0001_campaign.json > "$out/h100.md"
python3 docs/results/train_h100.py > "$out/train-h100.md"
