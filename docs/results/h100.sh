#!/usr/bin/env bash
# The GPU campaign: every table of docs/results/ that a GPU gives, in one go, into the directory that is named.
#   LENET_DATA=... bash docs/results/h100.sh OUT
# Compiled networks are tuned first, several at a time, and then only loaded. Some 20 minutes on an H100.
set -uo pipefail
out=$(realpath "$1")
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD
precisions=(--precision=fp32 --precision=tf32 --precision=fp16 --precision=bf16 --precision=fp16x2)
backends=(pytorch pytorch-compile pytorch-cudagraph fused)
sizes=(1 10 100 1000 10000)

python3 docs/results/warm_compile.py "${sizes[@]}" 200
python3 docs/results/warm_compile.py 1 1000 10000 fp32 fp16 uint8
python3 docs/results/fused_check.py > "$out/fused-h100.md"
for tool in memcheck racecheck; do
  compute-sanitizer --tool "$tool" python3 docs/results/fused_check.py --few
done > "$out/sanitizer-h100.txt" 2>&1
python3 docs/results/timer_check.py > "$out/timer-h100.md"
python3 -m pytest benchmarks/test_overhead.py "${backends[@]/#/--backend=}" -q | tee "$out/overhead-h100.txt"
python3 docs/results/parity.py "${backends[@]}" > "$out/parity-h100.md"
for run in campaign repeat; do
  python3 -m pytest benchmarks/test_inference.py benchmarks/test_transfer.py "${backends[@]/#/--backend=}" \
    "${sizes[@]/#/--batch-size=}" "${precisions[@]}" --host-memory=pinned --host-memory=pageable \
    --protocol=adaptive --time-limit=3 \
    --benchmark-save="$run" --benchmark-save-data "--benchmark-storage=file://$out" -q > "$out/$run.log"
done
# How far from the floor: bytes, and the host's memory read by the kernel.
python3 -m pytest benchmarks/test_inference.py benchmarks/test_transfer.py "${backends[@]/#/--backend=}" \
  --batch-size=1 --batch-size=1000 --batch-size=10000 --precision=fp32 --precision=fp16 --precision=fp16x2 \
  --input=float32 --input=uint8 --host-memory=pinned --host-memory=zero-copy --protocol=adaptive --time-limit=3 \
  --benchmark-save=floor --benchmark-save-data "--benchmark-storage=file://$out" -q > "$out/floor.log"
python3 -m lenet results --markdown "$out"/*/0003_floor.json > "$out/floor-h100.md"
python3 docs/results/repeatability.py "$out"/*/0001_campaign.json "$out"/*/0002_repeat.json > "$out/repeatability-h100.md"
python3 -m lenet results --markdown "$out"/*/0001_campaign.json > "$out/h100.md"
python3 docs/results/placement.py > "$out/placement-h100.md"
python3 docs/results/train_h100.py > "$out/train-h100.md"
