"""Drives a body with an exported policy: NumPy and ONNX Runtime, no torch, no polysoma.

polysoma export generalist --embodiment drone --int8 --out drone.onnx
python examples/edge.py drone.onnx "fly to the red ring"
"""

import json
import re
import sys
import time

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
        words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", instruction.lower())[: self.about["words"]]
        self.words = np.zeros((1, self.about["words"]), np.int64)
        self.words[0, : len(words)] = [ids.get(word, 1) for word in words]
        size = len(self.names or self.body["actions"]["channels"])
        self.previous = [np.int64(size) if self.names else np.zeros(size, np.float32)]
        self.previous_valid = [np.bool_(False)]
        self.frames = []

    def act(self, observation):
        """Log-probabilities (chunk, names), or actions (chunk, A) within their limits; call ``executed`` afterwards."""
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
            return actions
        limits = [(c["low"], c["high"]) for c in self.body["actions"]["channels"]]
        low, high = np.array([[-np.inf if a is None else a, np.inf if b is None else b] for a, b in limits]).T
        return np.clip(actions, low, high).astype(np.float32)

    def executed(self, action):
        """Says what was executed last."""
        self.previous.append(np.int64(action) if self.names else np.asarray(action, np.float32))
        self.previous_valid.append(np.bool_(True))

    def padded(self, rows):
        rows = np.stack(rows)
        missing = self.body["history"] - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], missing, 0)])[None]


if __name__ == "__main__":
    runner = Runner(sys.argv[1], sys.argv[2])
    streams = [s for s in runner.body["streams"] if s["modality"] != "text"]
    kinds = {"state": np.float32, "image": np.uint8, "symbol": np.uint8}
    nothing = {s["name"]: np.zeros(s["shape"], kinds[s["modality"]]) for s in streams}
    for _ in range(20):
        began = time.perf_counter()
        chunk = runner.act(nothing)
        runner.executed(chunk[0].argmax() if runner.names else chunk[0])
    print(f"{runner.body['name']}: {chunk.shape} in {1e3 * (time.perf_counter() - began):.1f} ms\n{chunk}")
