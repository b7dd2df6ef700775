#!/usr/bin/env bash
# Everything from nothing to the shipped weights, on two cores. Killed, it continues where it was: run it again.
#   bash recipes/generalist.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/generalist}
bin=.venv/bin
export OMP_NUM_THREADS=1

record() { "$bin/polysoma" record "$@" --workers 2; }
train() {
    resume=""
    [ -f "$run/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/generalist.toml --out "$run" $resume "$@"
}

# 1. Demonstrations of the experts. Seeds 1000 to 1999 are left to evaluation.
record 'metaworld/*' --episodes 50 --out data
record 'babyai/*' --episodes 1000 --out data
record 'babyai/PutNextLocal' --episodes 1000 --seed 2000 --out data
record 'drone/hover,drone/waypoints' --episodes 200 --out data
record 'drone/ring' --episodes 1000 --out data
record 'rover/*' --episodes 1000 --out data
record 'rover/*' --episodes 500 --seed 2000 --out data

# 2. Imitation up to the point where the policy mostly succeeds. The first thousand steps planned for a longer run with
#    fewer windows of drone and rover, which turned out to be too few.
reached() { grep -q "\"step\": $1," "$run/metrics.jsonl" 2>/dev/null && [ -d "$run/training" ]; }
reached 1000 || train --until 1000 steps=4200 bodies.rover.batch=128 bodies.drone.batch=128
[ -d "$run/visited" ] || train --until 1800

# 3. The states that this policy visits, labelled by the experts (DAgger).
if [ ! -f "$run/visited/done" ]; then
    [ -d "$run/visited/policy" ] || { mkdir -p "$run/visited"; cp -r "$run/checkpoint" "$run/visited/policy"; }
    visit() { record "$@" --behaviour "$run/visited/policy" --out data/visited --seed 100000; }
    visit 'babyai/*' --episodes 80 --max-steps 160
    visit 'rover/*' --episodes 400
    visit 'drone/ring' --episodes 400
    visit 'metaworld/*' --episodes 5 --max-steps 200
    touch "$run/visited/done"
fi

# 4. Imitation of both to the end of the schedule.
train 'data=["data/*", "data/visited/*"]' 'weights={"data/visited/babyai" = 3.0, "data/visited/rover" = 2.0, "data/visited/metaworld" = 3.0}'

# 5. Cameras, two arms, legs and the other bodies join. The shipped weights' first four stages had 25 levels of the grid
#    world; the others came here, with 400 episodes each.
if [ ! -f "$run/recorded" ]; then
    record 'metaworld-pixels/*' --episodes 50 --out data
    record 'aloha/*' --episodes 200 --out data
    record 'aloha-pixels/*' --episodes 120 --out data
    record 'go1/*,fetch/*' --episodes 150 --out data
    record 'pointmaze/*' --episodes 100 --out data
    record 'half-cheetah/*,hopper/*,walker2d/*,ant/*,swimmer/*,inverted-*/*' --episodes 30 --out data
    record 'reacher/*,pusher/*' --episodes 200 --out data
    touch "$run/recorded"
fi
join() {
    resume=""
    [ -f "$run/many/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies.toml --out "$run/many" $resume \
        init="$run/checkpoint" "$@"
}
# The first 800 steps had the bodies that are easy to learn as large as the others, which was too much.
grep -q '"step": 800,' "$run/many/metrics.jsonl" 2>/dev/null || {
    overrides="bodies.aloha.batch=64 bodies.aloha.weight=1.0 bodies.pointmaze.batch=64 bodies.pointmaze.weight=1.0"
    overrides="$overrides bodies.go1.batch=64 bodies.go1.weight=1.0 bodies.inverted-pendulum.weight=1.0"
    for body in half-cheetah hopper walker2d ant swimmer reacher pusher inverted-double-pendulum; do
        overrides="$overrides bodies.$body.batch=32 bodies.$body.weight=1.0"
    done
    # shellcheck disable=SC2086
    join --until 800 'data=["data/*", "data/visited/drone", "data/visited/rover"]' weights={} $overrides
}
# ALOHA drops the cube at the hand-over and the ball loses its way: these need states that the policy itself visits.
if [ ! -f "$run/many/visited" ]; then
    [ -d "$run/many/800" ] || cp -r "$run/many/checkpoint" "$run/many/800"
    record 'aloha/*,go1/*' --episodes 40 --behaviour "$run/many/800" --out data/visited --seed 100000
    record 'pointmaze/medium,pointmaze/large' --episodes 40 --max-steps 400 --behaviour "$run/many/800" --out data/visited \
        --seed 100000
    touch "$run/many/visited"
fi
join

# 6. A second phase: more of the policy's own states, goals for the arm's cameras, and ALOHA with its last command in view.
#    (In the shipped weights' first phase ALOHA did not see it, and had 200 demonstrations without noise.)
visited=data/visited
look() { record "$@" --behaviour "$run/many/checkpoint" --out $visited/1300 --seed 110000; }
if [ ! -f "$run/looked" ]; then
    record 'aloha-pixels/transfer-cube' --episodes 150 --seed 3000 --out data
    look 'metaworld-pixels/*' --episodes 5 --max-steps 200
    look 'metaworld/*' --episodes 6 --max-steps 250
    look 'go1/*' --episodes 60
    look 'pointmaze/medium,pointmaze/large' --episodes 60 --max-steps 400
    look 'walker2d/*,inverted-double-pendulum/*' --episodes 15
    look 'babyai/*' --episodes 24 --max-steps 160
    touch "$run/looked"
fi
refine() {
    resume=""
    [ -f "$run/refined/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies-refined.toml --out "$run/refined" $resume \
        init="$run/many/checkpoint" "$@"
}
data='data=["data/*"'
for name in drone go1 pointmaze rover '1300/*'; do data="$data, \"$visited/$name\""; done
# ALOHA's hands decide at thresholds: a round of visited states at every 200 steps.
round() {
    step=$1; seed=$2; shift 2
    [ -f "$run/refined/visited-$step" ] && return
    refine --until "$step" "$data]" "$@"
    rm -rf "$run/refined/$step" && cp -r "$run/refined/checkpoint" "$run/refined/$step"
    again() { record "$@" --behaviour "$run/refined/$step" --out "$visited/more-$step" --seed "$seed"; }
    again 'aloha/*' --episodes 100
    again 'aloha-pixels/*' --episodes 30
    [ "$step" = 400 ] && again 'metaworld-pixels/*' --episodes 4 --max-steps 150
    touch "$run/refined/visited-$step"
}
# Up to step 800 pictures moved by four pixels, which hides where small things are, and other batches were larger.
early="bodies.metaworld-pixels.shift=4 bodies.aloha-pixels.shift=4 bodies.aloha-pixels.batch=64"
early="$early bodies.aloha-pixels.weight=1.0 bodies.aloha-pixels.noise=0.01 bodies.metaworld.batch=112"
early="$early bodies.drone.batch=48 bodies.rover.batch=64"
# shellcheck disable=SC2086
round 400 120000 steps=1400 $early
data="$data, \"$visited/more-400/*\""
# shellcheck disable=SC2086
round 600 130000 steps=1000 $early
data="$data, \"$visited/more-600/*\""
# shellcheck disable=SC2086
round 800 140000 steps=1000 $early
data="$data, \"$visited/more-800/*\""
round 1000 150000

# 7. A third phase, from step 1000 on: the image tokenizer's maps are normalised over cells, as the code has them now. The
#    shipped weights' second phase had another tokenizer, and three quarters of its third phase ran in one process.
resume=""
[ -f "$run/seeing/training/training.safetensors" ] && resume="--resume"
"$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies-seeing.toml --out "$run/seeing" $resume \
    init="$run/refined/1000"
echo "done: polysoma evaluate $run/seeing/checkpoint"
