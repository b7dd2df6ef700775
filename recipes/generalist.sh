#!/usr/bin/env bash
# Everything from nothing to the shipped weights, on two cores. Killed, it continues where it was: run it again.
#   bash recipes/generalist.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/generalist}
bin=.venv/bin
export OMP_NUM_THREADS=1

record() { "$bin/polysoma" record "$@" --workers 2; }

# 1. Demonstrations of the experts. Seeds 1000 to 1999 are left to evaluation.
long=$(printf 'babyai/%s,' PutNextLocal PickupLoc KeyCorridor Unlock Synth GoToSeq MiniBossLevel BossLevel)
record 'metaworld/*' --episodes 50 --out data
record 'babyai/*' --episodes 1000 --out data
record "${long%,}" --episodes 1000 --seed 2000 --out data
record 'drone/hover,drone/waypoints' --episodes 200 --out data
record 'drone/ring' --episodes 1000 --out data
record 'rover/*' --episodes 1000 --out data
record 'rover/*' --episodes 500 --seed 2000 --out data

# 2. Imitation. At every thousandth step the policy acts, and the experts label the states that it visits (DAgger).
folders='"data/*"'
for round in 1 2 3 4; do
    resume=""
    [ -f "$run/training/training.safetensors" ] && resume="--resume"
    if ! grep -q "\"step\": ${round}000," "$run/metrics.jsonl" 2>/dev/null; then
        "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/generalist.toml "data=[$folders]" \
            --out "$run" --until "${round}000" $resume
    fi
    [ "$round" = 4 ] && break
    policy=$run/step-${round}000
    [ -d "$policy" ] || { cp -r "$run/checkpoint" "$policy.copy" && mv "$policy.copy" "$policy"; }
    visit() { record "$@" --behaviour "$policy" --out "data/visited/$round" --seed "${round}00000"; }
    visit 'babyai/*' --episodes 60 --max-steps 240
    visit 'rover/*' --episodes 300
    visit 'drone/ring' --episodes 300
    visit 'metaworld/*' --episodes 8 --max-steps 250
    folders='"data/*", "data/visited/*/*"'
done
echo "done: polysoma evaluate $run/checkpoint"
