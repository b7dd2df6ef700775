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

# 5. Two arms, legs and the other bodies join. (When the shipped weights learnt the peg, its expert still made small
#    corrections of the last command, which an imitator's own errors drown; what places teach is in docs/finetuning.md.) The shipped weights' first four stages had 25 levels of the grid
#    world; the others came here, with 400 episodes each.
if [ ! -f "$run/recorded" ]; then
    record 'aloha/*' --episodes 200 --out data
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

# 6. A second phase: more of the policy's own states, and ALOHA with its last command in view.
#    (In the shipped weights' first phase ALOHA did not see it, and had 200 demonstrations without noise.)
visited=data/visited
look() { record "$@" --behaviour "$run/many/checkpoint" --out $visited/1300 --seed 110000; }
if [ ! -f "$run/looked" ]; then
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
    touch "$run/refined/visited-$step"
}
# Up to step 800 some batches were larger.
early="bodies.metaworld.batch=112 bodies.drone.batch=48 bodies.rover.batch=64"
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

# 7. A third phase: cameras join and learn to see, from single pictures of many resets and from privileged states, with
#    rounds of visited states at steps 400 and 600. (The shipped weights had cameras before, with a tokenizer that hardly
#    saw; all of it was dropped before this phase.)
see() {
    resume=""
    [ -f "$run/seeing/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies-seeing.toml --out "$run/seeing" $resume \
        init="$run/refined/1000" "$@"
}
if [ ! -f "$run/glanced" ]; then
    glance() { record "$@" --behaviour random --max-steps 1 --seed 200000 --out data/looks; }
    record 'metaworld-pixels/*' --episodes 40 --out data
    record 'aloha-pixels/*' --episodes 200 --out data
    glance 'metaworld-pixels/*' --episodes 400
    glance 'aloha-pixels/*' --episodes 2500
    touch "$run/glanced"
fi
for step in 400 600; do
    [ -f "$run/seeing/visited-$step" ] && continue
    [ "$step" = 400 ] && now='"data/*", "data/looks/*"' || now='"data/*", "data/looks/*", "data/visited/seen-400/*"'
    for name in drone go1 pointmaze rover '1300/*' 'more-400/*' 'more-600/*' 'more-800/*' 'more-1000/*'; do
        now="$now, \"$visited/$name\""
    done
    see --until "$step" "data=[$now]"
    rm -rf "$run/seeing/$step" && cp -r "$run/seeing/checkpoint" "$run/seeing/$step"
    again() { record "$@" --behaviour "$run/seeing/$step" --out "$visited/seen-$step" --seed "$((step * 100 + 120000))"; }
    again 'aloha-pixels/*' --episodes 40
    again 'aloha/*' --episodes 60
    again 'metaworld-pixels/*' --episodes 5 --max-steps 150
    touch "$run/seeing/visited-$step"
done
see

# 8. A fourth phase for what still failed: visited states of these tasks, with rounds at steps 600 and 900. ALOHA's commands
#    were predicted as offsets from the last one in it (up to step 400 its grippers', too), which did worse than places,
#    so in the end its own weights are those of phase 7 again, and it learns on with the others for 320 steps.
data='data=["data/*", "data/looks/*"'
for name in drone go1 pointmaze rover '1300/*' 'more-400/*' 'more-600/*' 'more-800/*' 'more-1000/*' 'seen-*/*' 'fine-0/*'; do
    data="$data, \"$visited/$name\""
done
fine() {
    resume=""
    [ -f "$run/fine/training/training.safetensors" ] && resume="--resume"
    "$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies-fine.toml --out "$run/fine" $resume \
        init="$run/seeing/checkpoint" "$@"
}
cut="--max-steps 300"
MP=metaworld-pixels
seen_badly="$MP/assembly-v3,$MP/coffee-pull-v3,$MP/handle-pull-side-v3,$MP/pick-out-of-hole-v3,$MP/plate-slide-back-side-v3"
seen_badly="$seen_badly,$MP/plate-slide-back-v3,$MP/plate-slide-v3,$MP/reach-v3,$MP/peg-insert-side-v3,$MP/soccer-v3"
seen_badly="$seen_badly,$MP/peg-unplug-side-v3,$MP/sweep-into-v3"
ML=metaworld
hard="$ML/pick-out-of-hole-v3,$ML/stick-pull-v3,$ML/soccer-v3,$ML/peg-insert-side-v3"
# shellcheck disable=SC2086
if [ ! -f "$run/fine-0" ]; then
    first() { record "$@" --behaviour "$run/seeing/checkpoint" --out "$visited/fine-0" --seed 190000; }
    first "$hard,$ML/handle-pull-side-v3" --episodes 60 $cut
    first "$ML/basketball-v3,$ML/disassemble-v3,$ML/lever-pull-v3,$ML/shelf-place-v3" --episodes 30 $cut
    first "$ML/hand-insert-v3,$ML/stick-push-v3,$ML/pick-place-v3,$ML/bin-picking-v3" --episodes 30 $cut
    first aloha/insertion --episodes 200
    first aloha/transfer-cube --episodes 40
    first aloha-pixels/insertion --episodes 80
    first aloha-pixels/transfer-cube --episodes 30
    first 'babyai/MoveTwoAcross,babyai/GoToImpUnlock,babyai/MiniBossLevel' --episodes 150 $cut
    first 'babyai/Unlock,babyai/BossLevel,babyai/BossLevelNoUnlock,babyai/Pickup' --episodes 40 $cut
    first 'babyai/OpenDoor,babyai/PickupAbove,babyai/SynthSeq' --episodes 40 $cut
    first 'pointmaze/medium,pointmaze/large' --episodes 120
    first fetch/push --episodes 80
    first 'walker2d/*' --episodes 20
    first "$seen_badly" --episodes 16 --max-steps 150
    first "$MP/*" --episodes 3 --max-steps 150
    touch "$run/fine-0"
fi
for step in 600 900; do
    [ -f "$run/fine/visited-$step" ] && continue
    fine --until "$step" "$data]"
    rm -rf "$run/fine/$step" && cp -r "$run/fine/checkpoint" "$run/fine/$step"
    again() { record "$@" --behaviour "$run/fine/$step" --out "$visited/fine-$step" --seed "$((step / 300 * 1000 + 189000))"; }
    again 'aloha/*' --episodes 100
    again 'aloha-pixels/*' --episodes 50
    # shellcheck disable=SC2086
    again "$hard,$ML/basketball-v3,$ML/disassemble-v3" --episodes 20 $cut
    again "$seen_badly" --episodes 6 --max-steps 150
    touch "$run/fine/visited-$step"
    data="$data, \"$visited/fine-$step/*\""
done
fine
[ -d "$run/grafted" ] || "$bin/python" recipes/graft.py "$run/fine/checkpoint" --bodies aloha --source "$run/seeing/checkpoint" \
    --out "$run/grafted"
resume=""
[ -f "$run/last/training/training.safetensors" ] && resume="--resume"
"$bin/torchrun" --nproc-per-node 2 -m polysoma train recipes/many-bodies-last.toml --out "$run/last" $resume \
    init="$run/grafted"
# What the last phases brought the arm they took from others: half of the way is better than its end (a mean of weights).
"$bin/polysoma" merge add "$run/seeing/checkpoint" "$run/last/checkpoint" --coefficient 0.5 --out "$run/mean"

# Low-rank matrices of their own for the bodies that need more than the trunk has, attached to it. They learn from fresh
# demonstrations, the arm also from what it runs into itself. (bfloat16, as shipped, is done by tools/ship_weights.py.)
adapt() { # NAME START MINUTES DATA...: fine-tunes into $run/NAME, or continues it
    name=$1 start=$2 minutes=$3
    shift 3
    [ -f "$run/$name/checkpoint/config.json" ] && ! [ -f "$run/$name/unfinished" ] && return
    mkdir -p "$run/$name" && touch "$run/$name/unfinished"
    resume=""
    [ -f "$run/$name/training/training.safetensors" ] && resume="--resume"
    "$bin/polysoma" finetune "$start" --data "$@" --minutes "$minutes" --rank 32 --out "$run/$name" $resume
    rm "$run/$name/unfinished"
}
more=$run/more
record 'aloha/*' --episodes 800 --out "$more"
adapt aloha-own "$run/mean" 15 "$more/aloha"
record 'metaworld/*' --episodes 60 --seed 300000 --out "$more"
record 'metaworld/*' --behaviour "$run/mean" --episodes 12 --seed 310000 --max-steps 300 --out "$more/visited"
adapt arm-first "$run/mean" 15 data/metaworld "$more/metaworld" "$more/visited/metaworld" --paraphrases shipped
hard=pick-out-of-hole,lever-pull,soccer,stick-pull,box-close,handle-pull-side,peg-insert-side,basketball,bin-picking,disassemble,reach-wall,shelf-place
hard=metaworld/${hard//,/-v3,metaworld/}-v3
record "$hard" --behaviour "$run/arm-first/checkpoint" --episodes 40 --seed 320000 --max-steps 300 --out "$more/again"
record "$hard" --episodes 100 --seed 330000 --out "$more/hard"
record 'metaworld/*' --behaviour "$run/arm-first/checkpoint" --episodes 6 --seed 340000 --max-steps 300 --out "$more/all"
adapt arm-own "$run/arm-first/checkpoint" 13 data/metaworld "$more/metaworld" "$more/hard/metaworld" \
    "$more/visited/metaworld" "$more/again/metaworld" "$more/all/metaworld" --paraphrases shipped
record 'hopper/*' --episodes 60 --seed 300000 --out "$more"
record 'hopper/*' --behaviour "$run/mean" --episodes 60 --seed 310000 --out "$more/visited"
adapt hopper-own "$run/mean" 4 data/hopper "$more/hopper" "$more/visited/hopper" --paraphrases shipped
record 'pointmaze/*' --episodes 200 --seed 300000 --out "$more"
record 'pointmaze/*' --behaviour "$run/mean" --episodes 60 --seed 310000 --out "$more/visited"
adapt pointmaze-own "$run/mean" 6 data/pointmaze "$more/pointmaze" "$more/visited/pointmaze" --paraphrases shipped
"$bin/polysoma" merge attach "$run/mean" "aloha=$run/aloha-own/checkpoint" "metaworld=$run/arm-own/checkpoint" \
    "hopper=$run/hopper-own/checkpoint" "pointmaze=$run/pointmaze-own/checkpoint" --out "$run/attached"
echo "done: polysoma evaluate $run/attached"
