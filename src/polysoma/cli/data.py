"""``polysoma data``: data sets of any known format, looked at, described and converted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from polysoma.cli.names import DataPath
from polysoma.cli.output import say, show
from polysoma.cli.progress import counting
from polysoma.embodiment import ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.text import counted

if TYPE_CHECKING:
    from polysoma.data.formats.reader import Reader


@dataclass(frozen=True)
class Info:
    """Says what a data set holds, and which body it is taken for.

    Examples:
        polysoma data info recordings/so101
        polysoma data info robomimic/low_dim_v141.hdf5
        polysoma data info hf://lerobot/pusht
    """

    path: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""

    def run(self) -> None:
        from polysoma.data import layout
        from polysoma.data.cache import cache_limit, raw_bytes
        from polysoma.data.foreign import Foreign
        from polysoma.data.formats import located, open_reader
        from polysoma.data.instructions import parts_in
        from polysoma.data.schema import schema_of, schema_path

        path = located(self.path)
        reader = open_reader(path)
        lengths = reader.lengths
        rate = "an unknown rate" if reader.fps is None else f"{reader.fps:g} Hz"
        show((str(self.path), "bold"), f": {reader.format}, {reader.robot or 'a body without a name'}, {rate}")
        if len(reader):
            show(
                f"{counted(len(reader), 'episode')}, {counted(int(lengths.sum()), 'frame')}; "
                f"{lengths.min()} to {lengths.max()} each, {np.median(lengths):g} in the middle"
            )
        told = Counter(part.instruction for episode in range(len(reader)) for part in parts_in(reader, episode))
        for text, count in told.most_common(8):
            show(f"  {count:>6} x {text or '(nothing said)'}")
        if len(told) > 8:
            show(f"  and {len(told) - 8} other instructions")
        missing = reader.missing()
        show("columns")
        for name, column in reader.columns.items():
            kind = "pictures" if column.picture else column.dtype.name
            shape = "x".join(map(str, column.shape)) or "1"
            show(f"  {name:<36} {kind} {shape}", (f"  {missing[name]}" if name in missing else "", "red"))
        show(_outcomes(reader))
        schema = schema_of(reader)
        body, where = schema.embodiment, schema_path(path)
        source = f"inferred; `polysoma data schema` writes {where} to edit"
        if (path / layout.POLYSOMA).exists():
            source = f"recorded by polysoma, described in {layout.POLYSOMA}"
        elif where.exists():
            source = f"described in {where}"
        show("embodiment ", (body.name, "bold"), f" at {body.rate_hz:g} Hz ({source})")
        for stream in body.arrays:
            shape = "x".join(map(str, stream.shape))
            show(f"  senses {stream.name}: {stream.modality} {shape} from {schema.columns[stream.name]}")
        if isinstance(body.actions, ContinuousActions):
            for channel in body.actions.channels:
                show(f"  moves {channel.name}: {channel.low:g} to {channel.high:g} {channel.unit}")
        else:
            show(f"  does one of {', '.join(body.actions.names)}")
        for remark in schema.remarks:
            show((f"  {remark}", "dim"))
        if lengths.any():
            size = raw_bytes(Foreign(reader, schema))
            unpacked = f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
            show(f"unpacked {unpacked} (caches may take {cache_limit() / 1e9:g} GB: POLYSOMA_CACHE_GB)")
        reader.close()


_LOOKED_AT = 200
"""Episodes, spread over the data set, whose ends are looked at: some formats read all of an episode for that."""


def _outcomes(reader: Reader) -> str:
    """What a data set says of rewards, ends and last observations."""
    from polysoma.data.foreign import has_rewards

    episodes = np.unique(np.linspace(0, len(reader) - 1, min(len(reader), _LOOKED_AT)).astype(int)).tolist()
    endings = [reader.ending(episode) for episode in episodes]
    terminated, truncated = (sum(getattr(e, name) for e in endings) for name in ("terminated", "truncated"))
    known = [ending.success for ending in endings if ending.success is not None]
    finals = 0 if reader.finals is None else int(reader.finals.sum())
    ends = f"{terminated:,} terminated, {truncated:,} truncated" if terminated or truncated else "no ends"
    return (
        f"outcomes: {'' if has_rewards(reader) else 'no '}rewards; {ends}; "
        f"{f'{sum(known):,} succeeded' if known else 'no successes or failures'} (of {len(episodes):,} episodes looked "
        f"at); {f'{finals:,}' if finals else 'no'} observations after a last action"
    )


@dataclass(frozen=True)
class Describe:
    """Writes what can be inferred of a data set's body as a TOML file next to it, for you to edit.

    Examples:
        polysoma data schema recordings/so101
        polysoma data schema robomimic/low_dim_v141.hdf5 --force
    """

    path: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    force: bool = False
    """Write over a description that is there."""

    def run(self) -> None:
        from polysoma.data import layout
        from polysoma.data.description import write_schema
        from polysoma.data.formats import located, open_reader
        from polysoma.data.schema import infer, schema_path

        path = located(self.path)
        if (path / layout.POLYSOMA).exists():
            raise PolysomaError(
                f"{path} was recorded by polysoma and describes its body itself ({layout.POLYSOMA}): nothing is "
                "inferred; `polysoma data edit --rename` changes names"
            )
        where = schema_path(path)
        if where.exists() and not self.force:
            raise PolysomaError(f"{where} is there already; --force writes over it")
        schema = infer(open_reader(path))
        write_schema(schema, where)
        say(f"{where}: edit it; it is read whenever the data are opened")
        for remark in schema.remarks:
            say(f"  {remark}")


@dataclass(frozen=True)
class Convert:
    """Copies a data set of any known format into our own layout or Minari's; the source is never touched.

    Run again, it continues where it stopped; into Minari's layout it begins anew.

    Examples:
        polysoma data convert bridge_rlds/1.0.0 data/bridge
        polysoma data convert data/drone ~/.minari/datasets/drone-v0 --format minari
        polysoma data convert recordings/so101 data/so101 --skip-damaged
    """

    source: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """A new folder, or one that an interrupted conversion left."""
    format: Literal["lerobot", "minari"] = "lerobot"
    """Whose layout: minari writes HDF5 files that minari.load_dataset opens."""
    skip_damaged: bool = False
    """Leave out episodes that are damaged or hold numbers that are not finite, instead of stopping at the first."""

    def run(self) -> None:
        from polysoma.data.convert import convert
        from polysoma.data.formats import located
        from polysoma.data.to_minari import to_minari

        source = located(self.source)
        write = to_minari if self.format == "minari" else convert
        with counting("converting") as count:
            done = write(source, self.target, self.skip_damaged, lambda n, total: count(n, total, "episodes"))
        say(f"{self.target}: {counted(done.written, 'episode')} written, {done.there:,} were there already")
        for problem in done.skipped:
            say(f"  left out: {problem}")
        for note in done.notes:
            say(f"  {note}")


@dataclass(frozen=True)
class Caches:
    """Lists the caches of data sets of other libraries, with how pictures lie in them, and lets go of them.

    Those that a killed process left are `unfinished`. What a process is writing now is neither listed nor deleted.

    Examples:
        polysoma data cache
        polysoma data cache --clear
        polysoma data cache data/* --clear
    """

    recordings: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RECORDING")] = ()
    """Folders of recordings, whose caches lie in them, too."""
    clear: bool = False
    """Delete them all; they are made again when they are needed."""

    def run(self) -> None:
        import time

        from polysoma.data.cache import cache_home, cache_limit, caches, remove

        held = sorted(caches(self.recordings), key=lambda cache: -cache.used)
        for cache in held:
            hours = (time.time() - cache.used) / 3600
            say(f"{cache.bytes / 1e9:8.2f} GB  {cache.kind:<10}  used {hours:,.0f} h ago  {cache.folder}")
        # Those of recordings do not count.
        total = sum(cache.bytes for cache in held if cache.folder.parent.parent == cache_home())
        say(f"{total / 1e9:.2f} of {cache_limit() / 1e9:g} GB (POLYSOMA_CACHE_GB) in {cache_home()}")
        if self.clear:
            for cache in held:
                remove(cache)
            say(f"deleted {len(held)}")


@dataclass(frozen=True)
class View:
    """Draws a data set: one HTML page, or a recording for Rerun's viewer, with pictures and numbers of some episodes.

    Examples:
        polysoma data view data/aloha-pixels --out view.html
        polysoma data view recordings/so101 --episodes 0,3
        polysoma data view recordings/so101 --out so101.rrd
    """

    path: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    out: Path = Path("view.html")
    """The page; or, where it ends in .rrd, the recording."""
    episodes: str = ""
    """Their numbers, comma-separated; six that are spread over the data set by default."""

    def run(self) -> None:
        from polysoma.data.formats import located
        from polysoma.data.view import view
        from polysoma.rollout.rerun_log import SUFFIX, view_in_rerun

        try:
            chosen = [int(number) for number in self.episodes.split(",")] if self.episodes else None
        except ValueError as error:
            raise PolysomaError(f"--episodes: expected numbers such as 0,3, got {self.episodes!r}") from error
        path, recording = located(self.path), self.out.suffix == SUFFIX
        draw = view_in_rerun if recording else view
        with counting("drawing") as count:
            draw(path, self.out, chosen, lambda done, total: count(done, total, "episodes"))
        say(f"{self.out}: open it {'with `rerun`' if recording else 'in a browser'}")
