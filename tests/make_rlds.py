"""RLDS data sets, written byte by byte as TensorFlow Datasets does."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LENGTHS = (5, 1, 7, 3)
SHARDS = {"train": (2, 1), "val": (1,)}
SIDE, WIDTH = 16, 20
NAMES = ("world_vector_0", "world_vector_1", "world_vector_2", "gripper_closedness_action", "terminate")

# --- a writer of TFRecord files and of protobuf


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def crc_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_entry(value) for value in range(256)]


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | (crc & 0x7FFF) << 17) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + masked(head) + data + masked(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def block(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def bytes_list(values: list[bytes]) -> bytes:
    return block(1, b"".join(block(1, value) for value in values))


def float_list(values: Any, packed: bool = True) -> bytes:
    raw = [struct.pack("<f", value) for value in np.ravel(values)]
    return block(2, block(1, b"".join(raw)) if packed else b"".join(b"\x0d" + piece for piece in raw))


def int64_list(values: Any, packed: bool = True) -> bytes:
    raw = [varint(int(value)) for value in np.ravel(values)]
    return block(3, block(1, b"".join(raw)) if packed else b"".join(b"\x08" + piece for piece in raw))


def example(features: dict[str, bytes]) -> bytes:
    entries = (block(1, block(1, key.encode()) + block(2, value)) for key, value in features.items())
    return block(1, b"".join(entries))


# --- a data set


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    about = {"shape": dimensions, "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor", "tensor": about}


def image(height: int, width: int, form: str, channels: int = 3, dtype: str = "uint8") -> dict[str, Any]:
    shape = {"dimensions": [str(height), str(width), str(channels)]}
    about = {"shape": shape, "dtype": dtype, "encodingFormat": form}
    return {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": about}


def several(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "...FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: dict[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": "...features.Sequence", "sequence": {"feature": feature, "length": "-1"}}


TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}


def described() -> dict[str, Any]:
    observation = several(
        front=image(SIDE, WIDTH, "jpeg"),
        wrist=image(SIDE, SIDE, "png"),
        depth=image(SIDE, SIDE, "png", 1, "uint16"),
        state=tensor("float32", 3),
        joints=tensor("float64", 2, 2),
        mode=tensor("int32"),
        mask=tensor("bool", 4),
        touch=tensor("uint8", 2, 3, encoding="bytes"),
        sound=tensor("int16", 5, encoding="zlib"),
        count=tensor("uint64"),
        left=several(force=tensor("float32", 2)),
        cloud=tensor("float32", -1, 3),
        words=sequence(TEXT),
        remark=TEXT,
    )
    action = several(
        world_vector=tensor("float32", 3), gripper_closedness_action=tensor("float32", 1), terminate=tensor("int32")
    )
    steps = several(
        observation=observation, action=action, reward=tensor("float32"), discount=tensor("float32"),
        is_first=tensor("bool"), is_last=tensor("bool"), is_terminal=tensor("bool"), language_instruction=TEXT,
        language_embedding=tensor("float32", 8),
    )  # fmt: skip
    return several(episode_metadata=several(success=tensor("bool"), file_path=TEXT), steps=sequence(steps))


TOLD = ("put the café cup down", "", "wischen \udcff".encode("utf-8", "surrogateescape"), "open the drawer")
INSTRUCTIONS = [TOLD[0], "", "wischen �", TOLD[3]]


def picture_file(picture: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return file.getvalue()


def episode(seed: int) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The features of one episode's record, and the columns that should come out of it."""
    rng, steps = np.random.default_rng(seed), LENGTHS[seed]
    packed = seed != 2
    smooth = np.linspace(0, 200, SIDE * WIDTH).reshape(SIDE, WIDTH, 1) + rng.uniform(0, 50, (steps, 1, 1, 3))
    fronts = [picture_file(picture, "JPEG") for picture in smooth.astype(np.uint8)]
    wrists = rng.integers(0, 256, (steps, SIDE, SIDE, 3), np.uint8)
    wrist_files = [picture_file(picture, "PNG") for picture in wrists]
    wrist_files[-1], wrists[-1] = b"", 0
    held = {
        "state": rng.normal(size=(steps, 3)).astype(np.float32),
        "joints": rng.normal(size=(steps, 2, 2)).astype(np.float32).astype(np.float64),
        "mode": rng.integers(-(2**31), 2**31, steps).astype(np.int32),
        "mask": rng.random((steps, 4)) < 0.5,
        "touch": rng.integers(0, 256, (steps, 2, 3), np.uint8),
        "sound": rng.integers(-(2**15), 2**15, (steps, 5)).astype(np.int16),
        "count": rng.integers(0, 2**64, steps, np.uint64),
        "left.force": rng.normal(size=(steps, 2)).astype(np.float32),
    }
    world, grip = rng.normal(size=(steps, 3)).astype(np.float32), rng.random((steps, 1)).astype(np.float32)
    terminate, reward = rng.integers(-1, 2, steps), rng.random(steps).astype(np.float32)
    # Two of four episodes were cut, the others ended by themselves.
    terminal = (np.arange(steps) == steps - 1) & (seed % 2 == 1)
    discount = 1 - terminal.astype(np.float32)
    seen = {
        "state": float_list(held["state"], packed),
        "joints": float_list(held["joints"], packed),
        "mode": int64_list(held["mode"], packed),
        "mask": int64_list(held["mask"]),
        "touch": bytes_list([row.tobytes() for row in held["touch"]]),
        "sound": bytes_list([zlib.compress(row.tobytes()) for row in held["sound"]]),
        "count": int64_list(held["count"]),
        "left/force": float_list(held["left.force"]),
        "front": bytes_list(fronts),
        "wrist": bytes_list(wrist_files),
        "depth": bytes_list([b"not looked at"] * steps),
        "cloud": float_list([]),
        "words/ragged_flat_values": bytes_list([b"a", b"b"]),
        "words/ragged_row_lengths_0": int64_list([0] * steps),
        "remark": bytes_list([b"hm"] * steps),
    }
    text = TOLD[seed] if isinstance(TOLD[seed], bytes) else str(TOLD[seed]).encode()
    features = {f"steps/observation/{key}": value for key, value in seen.items()} | {
        "episode_metadata/success": int64_list([seed % 2]),
        "episode_metadata/file_path": bytes_list([b"/somewhere"]),
        "steps/action/world_vector": float_list(world),
        "steps/action/gripper_closedness_action": float_list(grip, packed),
        "steps/action/terminate": int64_list(terminate),
        "steps/reward": float_list(reward),
        "steps/discount": float_list(discount),
        "steps/is_first": int64_list(np.arange(steps) == 0, packed),
        "steps/is_last": int64_list(np.arange(steps) == steps - 1),
        "steps/is_terminal": int64_list(terminal),
        "steps/language_instruction": bytes_list([text] * steps),
        "steps/language_embedding": float_list(rng.normal(size=(steps, 8))),
    }
    columns = {f"observation.{key}": value for key, value in held.items()}
    decoded = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in fronts]
    columns |= {"observation.images.front": np.stack(decoded), "observation.images.wrist": wrists, "reward": reward}
    columns |= {"terminated": terminal, "discount": discount}
    columns["action"] = np.concatenate([world, grip, terminate[:, None]], 1)
    return features, columns


EPISODES = [episode(seed) for seed in range(len(LENGTHS))]
TRUTH = [columns for _, columns in EPISODES]


def write(
    root: Path,
    change: Callable[[int, dict[str, bytes]], Any] = lambda seed, features: None,
    features: dict[str, Any] | None = None,
) -> Path:
    """The data set at ``root``, with the features of its records changed beforehand."""
    root.mkdir(parents=True)
    splits, seed = [], 0
    for split, shards in SHARDS.items():
        for number, count in enumerate(shards):
            records = b""
            for _ in range(count):
                held = dict(EPISODES[seed][0])
                change(seed, held)
                records += record(example(held))
                seed += 1
            (root / f"toy_arm-{split}.tfrecord-{number:05d}-of-{len(shards):05d}").write_bytes(records)
        splits.append({"name": split, "shardLengths": [str(count) for count in shards]})
    info = {"name": "toy_arm", "version": "2.1.0", "fileFormat": "tfrecord", "splits": splits}
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "features.json").write_text(json.dumps(features or described()))
    return root
