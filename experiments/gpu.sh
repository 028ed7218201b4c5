#!/usr/bin/env bash
# The GPU campaign: every table of docs/results/ that a GPU gives, into the directory that is named.
#   LENET_DATA=... bash experiments/gpu.sh OUT [STAGE...]
# Stages: compile, which tunes compiled networks several at a time, so that they are only loaded after; then campaign and
# repeat, the suite's rows; floor, more of them, which tunes its networks itself; runtimes, all backends side by side,
# which tunes its own too; throughput, rows with many batches in flight, and the depth to choose; check, scripts of one table each; energy, its counter and joules; parity, which tunes
# those that compile does not; sanitize; profile; train. Without a stage all run. A run of the suite that takes too long
# is ended as by Ctrl-C: its rows are kept. Its log says where the time went.
# A stage that fails is named, the others go on, and the exit status is then 1.
set -uo pipefail
mkdir -p "$1"
out=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
backends=(pytorch pytorch-compile pytorch-cudagraph fused)
sizes=(1 10 100 1000 10000)
longest=${LENET_LONGEST:-600}     # seconds of a run of the suite
time_limit=${LENET_TIME_LIMIT:-2} # seconds of a row; on a host that is busy now and then end-to-end rows take all of it
failed=()
# Files carry the card's name, such as floor-h200.md.
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1 | sed 's/^NVIDIA //' | tr 'A-Z ' 'a-z-')
card=${card:-gpu}

newest() { # NAME: of a stage that was run twice into one directory, the file of the later run; what is not there, if none
  ls -t "$out"/*/*_"$1".json 2> /dev/null | head -n 1 | grep . || echo "$out/$1.json"
}

suite() { # NAME OPTION...
  timeout --signal=INT --kill-after=60 "$longest" python3 -m pytest benchmarks/test_inference.py benchmarks/test_transfer.py \
    "${backends[@]/#/--backend=}" --benchmark-save="$1" --benchmark-save-data "--benchmark-storage=file://$out" \
    --protocol=adaptive "--time-limit=$time_limit" --durations=30 "${@:2}" -q > "$out/$1.log"
  local status=$?
  tail -n 1 "$out/$1.log"
  return $status
}

rows() { # NAME: all that is compared
  suite "$1" "${sizes[@]/#/--batch-size=}" --precision={fp32,tf32,fp16,bf16,fp16x2} --host-memory={pinned,pageable}
}

compile() {
  python3 experiments/warm_compile.py "${sizes[@]}"
}

campaign() {
  local status=0
  rows campaign || status=1
  python3 -m lenet results --markdown "$(newest campaign)" > "$out/$card.md" || status=1
  return $status
}

repeat() {
  local status=0
  rows repeat || status=1
  python3 experiments/repeatability.py "$(newest campaign)" "$(newest repeat)" > "$out/repeatability-$card.md" || status=1
  return $status
}

floor() { # bytes, and the host's memory read by the kernel
  local status=0
  python3 experiments/warm_compile.py 1 1000 10000 fp32 fp16 float32 uint8 || status=1
  suite floor --batch-size={1,1000,10000} --precision={fp32,fp16,fp16x2} --input={float32,uint8} \
    --host-memory={pinned,zero-copy} || status=1
  python3 -m lenet results --markdown "$(newest floor)" > "$out/floor-$card.md" || status=1
  return $status
}

runtimes() { # every backend that runs here, in every mode
  local status=0 backends=(pytorch pytorch-compile pytorch-cudagraph pytorch-aot jax onnxruntime onnxruntime-cudagraph fused)
  python3 experiments/warm_compile.py pytorch-compile pytorch-aot 1 1000 10000 fp32 fp16 || status=1
  suite runtimes --mode={forward,end_to_end,throughput} --batch-size={1,1000,10000} --precision={fp32,fp16,int8,fp8} \
    -k 'not (pytorch- and (int8 or fp8))' || status=1
  python3 -m lenet results --markdown "$(newest runtimes)" > "$out/runtimes-$card.md" || status=1
  return $status
}

throughput() { # beside the rows of one batch; then at each depth
  local status=0 backends=(pytorch pytorch-cudagraph fused) depth files=()
  suite throughput --mode={forward,end_to_end,throughput} --batch-size={1,1000,10000} --input={float32,uint8} || status=1
  python3 -m lenet results --markdown "$(newest throughput)" > "$out/throughput-$card.md" || status=1
  backends=(pytorch-cudagraph fused)
  for depth in 1 2 3 4 5 6 7 8; do
    suite "depth$depth" --mode=throughput "--depth=$depth" --batch-size={1,1000} --input={float32,uint8} || status=1
    files+=("$(newest "depth$depth")")
  done
  python3 experiments/throughput_depth.py "${files[@]}" > "$out/throughput-depth-$card.md" || status=1
  return $status
}

sanitizer() { # TOOL OPTION...: what memcheck calls an error of the API is cuda.bindings looking for functions
  compute-sanitizer --error-exitcode 1 --tool "$@" python3 experiments/fused_check.py --few
}

check() {
  local status=0
  python3 experiments/timer_check.py > "$out/timer-$card.md" || status=1
  python3 experiments/placement.py > "$out/placement-$card.md" || status=1
  python3 experiments/gate_builds.py --device cuda pytorch-compile > "$out/gate-builds-$card.md" || status=1
  python3 experiments/fused_check.py > "$out/fused-$card.md" || status=1
  python3 experiments/latency.py > "$out/latency-$card.md" || status=1
  python3 -m pytest benchmarks/test_overhead.py "${backends[@]/#/--backend=}" -q | tee "$out/overhead-$card.txt" || status=1
  python3 experiments/hot_path.py > "$out/hot-path-$card.md" || status=1
  return $status
}

energy() { # the counter beside sampled power, and joules for 1,000 images
  local status=0
  python3 experiments/energy_check.py > "$out/energy-check-$card.md" || status=1
  suite energy --batch-size={1,1000} --energy || status=1
  python3 -m lenet results --markdown "$(newest energy)" > "$out/energy-$card.md" || status=1
  return $status
}

parity() {
  local status=0
  python3 experiments/warm_compile.py 200 float32 uint8 || status=1
  python3 experiments/warm_compile.py 1 1000 10000 uint8 || status=1
  python3 experiments/parity.py "${backends[@]}" > "$out/parity-$card.md" || status=1
  return $status
}

sanitize() {
  local status=0
  sanitizer memcheck --report-api-errors no > "$out/sanitizer-$card.txt" 2>&1 || status=1
  sanitizer racecheck >> "$out/sanitizer-$card.txt" 2>&1 || status=1
  return $status
}

profile() { # what bounds the kernel that reads the host's memory
  ncu --set full --clock-control none --cache-control none --kernel-name regex:lenet --launch-skip 19 --launch-count 1 \
    python3 experiments/fused_check.py --zero-copy > "$out/ncu-$card.txt"
}

train() {
  local status=0
  python3 experiments/train_h100.py > "$out/train-$card.md" || status=1
  python3 experiments/train_steps.py >> "$out/train-$card.md" || status=1
  python3 experiments/train_fast.py > "$out/train-fast-$card.md" || status=1
  return $status
}

stages=(compile campaign repeat floor runtimes throughput check energy parity sanitize profile train)
[ $# -gt 0 ] || set -- "${stages[@]}"
for one in "$@"; do
  if ! printf '%s\n' "${stages[@]}" | grep -qxF -- "$one"; then
    echo "there is no stage $one: ${stages[*]}" >&2
    exit 2
  fi
  "$one" || failed+=("$one")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
