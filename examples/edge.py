"""Drives a body with an exported policy: NumPy and ONNX Runtime, no torch, no polysoma.

polysoma export generalist --embodiment drone --int8 --out drone.onnx
python examples/edge.py drone.onnx "fly to the red ring"
"""

import hashlib
import json
import pathlib
import re
import sys
import time
import unicodedata

import numpy as np
import onnxruntime


class Runner:
    """One episode of one body: ``act`` takes an observation (stream name to array) and gives the next chunk."""

    def __init__(self, path, instruction):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["polysoma"])
        self.body = self.about["embodiment"]
        self.names = self.body["actions"].get("names")
        ids = {word: number for number, word in enumerate(self.about["vocabulary"], start=2)}
        words, fit = read(instruction, ids), self.about["words"]
        if len(words) > fit:
            print(f"{path} reads {fit} words, the instruction has {len(words)}: the rest is not read", file=sys.stderr)
        # Files of earlier versions read a fixed number of words, padded with 0.
        room = next(value.shape[1] for value in self.session.get_inputs() if value.name == "words")
        self.words = np.zeros((1, room if isinstance(room, int) else max(1, min(len(words), fit))), np.int64)
        self.words[0, : len(words[:fit])] = words[:fit]
        size = len(self.names or self.body["actions"]["channels"])
        self.previous = [np.int64(size) if self.names else np.zeros(size, np.float32)]
        self.previous_valid = [np.bool_(False)]
        self.frames = []
        self.limits = Limits(self.body, self.about["limits"]) if self.about.get("limits") else None
        beside, digest = pathlib.Path(path).with_suffix(".guard.onnx"), self.about.get("guard")
        if digest and not beside.exists():
            raise ValueError(f"{path} was exported with a guard: expected {beside.name} beside it, there is none")
        if digest and hashlib.sha256(beside.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{beside}: expected the guard that was exported with {path}, got another one")
        # Files of earlier versions say nothing of guards, and use what lies beside them.
        used = digest or (digest is None and beside.exists())
        self.guard = Guard(beside, self.body["name"]) if used else None

    def act(self, observation):
        """Log-probabilities (chunk, names), or actions (chunk, A) within their limits; call ``executed`` afterwards.
        A guard beside the file (``NAME.guard.onnx``) rules out choices or replaces actions, and ends the chunk where it
        judges no further: after 1 choice, or as many actions as ``polysoma guard learn --span`` said.
        Raises ValueError where a stream is missing, of another shape, or not finite as float32."""
        observation = {s["name"]: checked(s, observation) for s in self.body["streams"] if s["modality"] != "text"}
        history = self.body["history"]
        self.frames, self.previous = [*self.frames, observation][-history:], self.previous[-history:]
        self.previous_valid = self.previous_valid[-history:]
        inputs = {"words": self.words, "length": np.array([len(self.frames)]), "previous": self.padded(self.previous)}
        inputs["previous_valid"] = self.padded(self.previous_valid)
        wanted = {value.name for value in self.session.get_inputs()}
        # A stream that is called as another input is has a prefix.
        called = {name: f"observation.{name}" if f"observation.{name}" in wanted else name for name in observation}
        inputs = {called[name]: self.padded([f[name] for f in self.frames]) for name in observation} | inputs
        (actions,) = self.session.run(None, {name: value for name, value in inputs.items() if name in wanted})
        if self.names:
            return actions if self.guard is None else self.guard.choices(actions, self.frames[-1])
        limits = [(c["low"], c["high"]) for c in self.body["actions"]["channels"]]
        low, high = np.array([[-np.inf if a is None else a, np.inf if b is None else b] for a, b in limits]).T
        if not np.isfinite(actions).all():
            raise ValueError("the policy predicted a number that is not finite")
        actions = np.clip(actions, low, high).astype(np.float32)
        if self.guard is not None:
            actions = self.guard.numbers(actions, self.frames[-1])
        return actions if self.limits is None else self.limits.limit(actions, self.frames[-1])

    def executed(self, action):
        """Says what was executed last; of several between two observations, one call each."""
        action = np.int64(action) if self.names else np.array(action, np.float32)
        if not np.isfinite(action).all():
            raise ValueError(f"executed: expected finite numbers, got {action}")
        if self.limits is not None:
            self.limits.executed(action)
        # The policy sees one before each frame: before the next one, the last.
        self.previous[len(self.frames) :] = [action]
        self.previous_valid[len(self.frames) :] = [np.bool_(True)]

    def padded(self, rows):
        rows = np.stack(rows)
        missing = self.body["history"] - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)])[None]


class Guard:
    """What `polysoma export --guard FOLDER` wrote beside the policy (docs/guards.md). ``risk`` and ``alarm`` are of
    the last plan, ``replaced`` the actions (or the choice) of it that others were put in the place of, None where none
    were. ``counts`` says how many plans were judged and replaced, and how many raised an alarm."""

    def __init__(self, path, body):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["polysoma"])
        if self.about["body"] != body:
            raise ValueError(f"{path}: expected a guard of {body}, got one of {self.about['body']}")
        self.risk, self.alarm, self.replaced = 0.0, "", None
        self.counts = dict.fromkeys(("judged", "replaced", "alarms"), 0)

    def judge(self, observation, plan=None):
        """Actions near the plan (none for choices), and which of them are fine, bool (N,), with the risk of each."""
        state = np.concatenate([observation[name].reshape(-1) for name in self.about["streams"]])
        state = state.astype(np.float32)[None]
        names = ["risk", "unlike", *([] if plan is None else ["actions"])]
        found = self.session.run(names, {"state": state} | ({} if plan is None else {"plan": plan}))
        risk, self.unlike = found[:2]
        fine = risk <= max(np.float32(self.about["replace"]), risk.min() + np.float32(self.about["spare"]))
        return found[-1], fine, risk

    def say(self, risk, fine, wanted):
        unlike = self.about["unlike"] is not None and self.unlike > np.float32(self.about["unlike"])
        kinds = {"risk": risk > np.float32(self.about["threshold"]), "unlike": unlike}
        self.risk, self.alarm = float(risk), " ".join(kind for kind, raised in kinds.items() if raised)
        self.replaced = None if fine else wanted
        for name, more in (("judged", True), ("replaced", not fine), ("alarms", bool(self.alarm))):
            self.counts[name] += int(more)

    def choices(self, likely, observation):
        """Log-probabilities of the first choice, (1, names), -inf where it is not fine."""
        _, fine, risk = self.judge(observation)
        best = likely[0].argmax()
        self.say(risk[best], fine[best], best)
        return np.where(fine, likely[:1], -np.inf).astype(np.float32)

    def numbers(self, actions, observation):
        """As many actions of the chunk as are judged together, or the nearest ones that are fine."""
        span = self.session.get_inputs()[1].shape[0]
        near, fine, risk = self.judge(observation, actions[np.minimum(np.arange(span), len(actions) - 1)])
        self.say(risk[0], fine[0], actions[:span])
        return actions[:span] if fine[0] else near[fine.argmax()]


def read(instruction, ids):
    """The ids of words: letters, numbers and their marks together, but signs of scripts without spaces between words
    one by one. What is not known as a whole may be known in pieces."""
    unspaced = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    words, inside = [], False
    for sign in instruction.lower():
        part = unicodedata.category(sign)[0] in "LNM" and not re.match(f"[{unspaced}]", sign)
        if part and inside:
            words[-1] += sign
        elif not sign.isspace():
            words.append(sign)
        inside = part
    found = []
    for word in words:
        parts = [ids.get(piece, 1) for piece in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", word)]
        found += [ids[word]] if word in ids else parts if max(parts) > 1 else [1]
    return found


class Limits:
    """What `polysoma export --limits FILE` stored, kept last (docs/guards.md); ``counts`` says how often each kind of
    limit was needed, in all actions of the chunks."""

    def __init__(self, body, table):
        channels = body["actions"]["channels"]
        names = [c["name"] for c in channels]
        states = [s for s in body["streams"] if s["modality"] == "state"]
        self.where = {c["name"]: (s["name"], n) for s in states for n, c in enumerate(s["channels"])}
        units = {c["name"]: c["unit"] for s in states for c in s["channels"]}
        # Where the joints are, of channels that the state holds under the same name and unit.
        self.joints = [self.where[c["name"]] if units.get(c["name"]) == c["unit"] else None for c in channels]
        self.low, self.high = (
            np.array([end if c[side] is None else c[side] for c in channels], float)
            for side, end in (("low", -np.inf), ("high", np.inf))
        )
        self.step, self.jerk = (self.each(names, table[key]) for key in ("step", "jerk"))
        self.jerky = bool(table["jerk"])
        self.low, self.high = self.ranges(names, table["place"])
        self.boxes = [(self.where[name], names.index(box["action"]), box) for name, box in table["workspace"].items()]
        self.near = table["near"]
        if self.near:
            self.near_range = self.ranges(names, self.near["place"])
            self.near_step = np.minimum(self.step, self.each(names, self.near["step"]))
        self.before, self.rest, self.moved, self.aim, self.pending = None, None, np.zeros(len(names)), None, []
        self.counts = dict.fromkeys(("actions", "changed", "place", "step", "jerk", "workspace", "near"), 0)

    @staticmethod
    def each(names, table):
        return np.array([table.get(name, np.inf) for name in names], float)

    def ranges(self, names, table):
        given = np.array([table.get(name, (-np.inf, np.inf)) for name in names], float).T
        return np.maximum(given[0], self.low), np.minimum(given[1], self.high)

    def executed(self, action):
        """Says what was executed last."""
        planned = self.pending.pop(0) if self.pending else (np.nan, None)
        action = np.asarray(action, float)
        # Somebody else's action went where it was to go.
        self.aim = planned[1] if np.array_equal(planned[0], action) else action
        before = self.rest if self.before is None else self.before
        self.moved = np.zeros(len(action)) if before is None else np.nan_to_num(action - before)
        # What moved further was several steps, of which only the last one was told.
        self.moved = np.clip(self.moved, -self.step, self.step)
        self.before = action

    def limit(self, actions, observation):
        """The chunk, float32 (chunk, A), as it may be executed after this observation."""
        before, moved = self.before, self.moved
        if before is None:
            before = np.array([np.nan if at is None else observation[at[0]][at[1]] for at in self.joints], float)
            self.rest = before
        aim, self.pending = before if self.aim is None else self.aim, []
        low, high, step = self.low, self.high, self.step
        stream, place = self.where[self.near["channel"]] if self.near else ("", 0)
        if self.near and observation[stream][place] < self.near["below"]:
            (low, high), step = self.near_range, self.near_step
            self.counts["near"] += len(actions)
        at = [float(observation[stream][place]) for (stream, place), _, _ in self.boxes]
        kept = np.empty(actions.shape, np.float32)
        for row, wanted in enumerate(actions.astype(float)):
            least, most = np.full(len(low), -np.inf), np.full(len(low), np.inf)
            for here, (_, channel, box) in zip(at, self.boxes, strict=True):
                ends = [np.inf * sign if box[side] is None else box[side] for side, sign in (("low", -1), ("high", 1))]
                one, other = sorted((end - here) / box["scale"] for end in ends)
                least[channel], most[channel] = max(least[channel], min(one, 0)), min(most[channel], max(other, 0))
            action, aim = self.one(wanted, before, moved, low, high, step, least, most, aim)
            self.pending.append((action.astype(np.float32), aim))
            moved, before = np.nan_to_num(action - before), action
            at = [here + box["scale"] * action[channel] for here, (_, channel, box) in zip(at, self.boxes, strict=True)]
            kept[row] = action
        return kept

    def one(self, wanted, before, moved, low, high, step, least, most, aim):
        known = ~np.isnan(before)
        target = np.clip(np.clip(wanted, low, high), least, most)
        way = np.where(known, target - before, 0)
        kept = way
        if self.jerky:
            rise, fall = np.minimum(moved + self.jerk, step), np.maximum(moved - self.jerk, -step)
            rise = np.minimum(rise, self.brakes(high - np.where(known, before, high)))
            fall = np.maximum(fall, -self.brakes(np.where(known, before, low) - low))
            lag = np.where(known, aim - before, 0)
            pace = way - lag + np.sign(lag) * self.brakes(np.abs(lag))
            kept = np.clip(np.where(np.abs(lag) > 1e-6, pace, way), fall, rise)
            slower = np.abs(kept - np.clip(way, -step, step)) > 1e-6
            self.counts["jerk"] += bool((slower & np.isfinite(self.jerk)).any())
        action = np.clip(np.where(known, before + kept, target), low, high)
        action = np.where(known, np.clip(action, before - step, before + step), action)
        action = np.clip(action, least, most)
        changed = np.abs(action - wanted) > 1e-6
        self.counts["actions"] += 1
        self.counts["changed"] += bool(changed.any())
        self.counts["place"] += bool(((wanted < low - 1e-6) | (wanted > high + 1e-6)).any())
        self.counts["workspace"] += bool(((wanted < least - 1e-6) | (wanted > most + 1e-6)).any())
        self.counts["step"] += bool((np.abs(way) > step + 1e-6).any())
        return np.where(changed, action, wanted), target

    def brakes(self, way):
        with np.errstate(invalid="ignore"):
            way = np.maximum(way, 0)
            whole = np.floor((np.sqrt(1 + 8 * way / self.jerk) - 1) / 2)
            found = way / (whole + 1) + self.jerk * whole / 2
        return np.where(np.isinf(self.jerk) | np.isinf(way), way, found)


def checked(stream, observation):
    """The array of a stream, a copy: whoever fills one array again and again changes no earlier frame."""
    kind = {"state": np.float32, "image": np.uint8, "symbol": np.uint8}[stream["modality"]]
    name, shape = stream["name"], tuple(stream["shape"])
    if name not in observation:
        raise ValueError(f"expected the stream {name!r}, got {sorted(observation)}")
    given = np.asarray(observation[name])
    if given.shape != shape or given.dtype.kind not in ("f" if kind is np.float32 else "iu"):
        raise ValueError(f"{name}: expected {kind.__name__} of shape {shape}, got {given.dtype} of shape {given.shape}")
    with np.errstate(over="ignore"):
        array = given.astype(kind)
    if kind is np.float32 and not np.isfinite(array).all():
        bad = [c["name"] for c, finite in zip(stream["channels"], np.isfinite(array), strict=True) if not finite]
        raise ValueError(f"{name}: not a finite number in {bad}")
    if kind is np.uint8 and (array != given).any():
        raise ValueError(f"{name}: expected values of 0 to 255")
    return array


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    runner = Runner(sys.argv[1], sys.argv[2])
    streams = [s for s in runner.body["streams"] if s["modality"] != "text"]
    kinds = {"state": np.float32, "image": np.uint8, "symbol": np.uint8}
    nothing = {s["name"]: np.zeros(s["shape"], kinds[s["modality"]]) for s in streams}
    for _ in range(20):
        began = time.perf_counter()
        chunk = runner.act(nothing)
        runner.executed(chunk[0].argmax() if runner.names else chunk[0])
    print(f"{runner.body['name']}: {chunk.shape} in {1e3 * (time.perf_counter() - began):.1f} ms\n{chunk}")
