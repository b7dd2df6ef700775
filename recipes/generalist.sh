#!/usr/bin/env bash
# Everything from nothing to the shipped weights, on two cores. Killed, it continues where it was: run it again.
#   bash recipes/generalist.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/generalist}
bin=.venv/bin
export OMP_NUM_THREADS=1

record() { "$bin/polysoma" record "$@" --workers 2; }
tasks() { local family=$1 suffix=$2; shift 2; printf -v list "$family/%s$suffix," "$@"; echo "${list%,}"; }
long=$(tasks babyai '' PutNextLocal PickupLoc KeyCorridor Unlock Synth GoToSeq MiniBossLevel BossLevel)
longest=$(tasks babyai '' Unlock BossLevel MiniBossLevel GoToSeq Synth SynthLoc)
precise=$(tasks metaworld -v3 pick-out-of-hole soccer lever-pull peg-insert-side stick-pull shelf-place push-back \
    basketball box-close bin-picking disassemble)

# 1. Demonstrations of the experts. Seeds 1000 to 1999 are left to evaluation.
record 'metaworld/*' --episodes 50 --out data
record 'babyai/*' --episodes 1000 --out data
record "$long" --episodes 1000 --seed 2000 --out data
record "$longest" --episodes 2000 --seed 10000 --out data
record 'drone/hover,drone/waypoints' --episodes 200 --out data
record 'drone/ring' --episodes 1000 --out data
record 'rover/*' --episodes 1000 --out data
record 'rover/*' --episodes 500 --seed 2000 --out data

# 2. Imitation. Three times the policy acts, and the experts label the states that it visits (DAgger). Not in the grid
#    world: a policy that has lost its way there goes in circles, and learning from its circles made it worse
#    (docs/training.md).
train() {
    local folders='"data/*"' resume=""
    [ -d data/visited ] && folders='"data/*", "data/visited/*/*"'
    [ -f "$run/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/generalist.toml "data=[$folders]" \
        --out "$run" $resume "$@"
}
for step in 1000 2000 2600; do
    grep -q "\"step\": $step," "$run/metrics.jsonl" 2>/dev/null || train --until "$step"
    policy=$run/step-$step
    [ -d "$policy" ] || { cp -r "$run/checkpoint" "$policy.copy" && mv "$policy.copy" "$policy"; }
    visit() { record "$@" --behaviour "$policy" --out "data/visited/$step"; }
    visit 'metaworld/*' --episodes 6 --max-steps 250 --seed "${step}00"
    visit "$precise" --episodes 14 --max-steps 300 --seed "$((step * 100 + 10000))"
    visit 'rover/*' --episodes 300 --seed "${step}00"
    visit 'drone/ring' --episodes 300 --seed "${step}00"
done
train

# 3. Once more for what is left: the arm's hardest tasks, and a short training of everything at a low rate.
hardest=$precise,$(tasks metaworld -v3 handle-pull-side reach-wall door-open)
record "$hardest" --episodes 20 --max-steps 300 --seed 340000 --behaviour "$run/checkpoint" --out data/visited/3400
resume=""
[ -f "$run-refined/training/training.safetensors" ] && resume="--resume"
"$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/generalist.toml 'data=["data/*", "data/visited/*/*"]' \
    init="$run/checkpoint" steps=300 learning_rate=3e-4 warmup=20 ema=0.98 seed=1 \
    bodies.metaworld.batch=384 bodies.metaworld.noise=0.005 bodies.babyai.batch=48 bodies.babyai.parts=4 \
    bodies.drone.batch=64 bodies.rover.batch=128 --out "$run-refined" $resume
echo "done: polysoma evaluate $run-refined/checkpoint"
