"""A policy in words: the token table of a body, and where the parameters are."""

from __future__ import annotations

from collections.abc import Mapping

from polysoma.embodiment import DiscreteActions, Modality
from polysoma.policy.network import Network


def token_table(network: Network, name: str) -> str:
    """The tokens of one body, a line for each group of them."""
    body, horizon, tokenizer = network.embodiment(name), network.horizon(name), network.bodies[name]
    rows: list[tuple[str, str, str]] = [("words", "one a word", "words")]
    if network.shown is not None and tokenizer.previous is not None:
        rows = [("words", "one a word", "words, what is shown")]
        frames = f"{tokenizer.per_frame} x {len(network.shown)} frames of each"
        rows.append(("episodes that are shown", frames, "words, what is shown"))
    if tokenizer.fused:
        streams = " + ".join(stream.name for stream in body.arrays)
        rows.append((f"frame: {streams} + previous action", f"1 x {horizon.history} frames", "words, frames so far"))
    else:
        for stream in body.arrays:
            image = stream.modality is Modality.IMAGE
            tokens = network.config.images.tokens if image else getattr(tokenizer.streams[stream.name], "tokens", 1)
            rows.append((f"{stream.name} {stream.shape}", str(tokens), "words, this frame"))
        if tokenizer.previous is not None:
            rows.append(("previous action", str(tokenizer.previous.tokens), "words, this frame"))
    unit = "choices of" if isinstance(body.actions, DiscreteActions) else "actions of"
    rows.append((f"readout -> {horizon.chunk} {unit} {body.actions.size}", "1", "words, frames so far, itself"))
    for readout in network.config.readouts.get(body.body, {}):
        rows.append((f"readout {readout}", "1", "words, frames so far, itself"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{name} at {body.rate_hz:g} Hz (group, tokens, sees):", *lines])


def summary(network: Network, others: Mapping[str, int]) -> str:
    """Parameters by part, and the token tables of all bodies.

    Args:
        network: to be described.
        others: further lines of the table of parameters.
    """
    parts = {name: getattr(network, name) for name in ("text", "images", "channels", "bodies", "trunk", "heads")}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
    counts["readouts"] = sum(p.numel() for p in network.readouts.parameters())
    counts |= others
    shape = f"width {network.config.width}, {network.config.trunk}"
    lines = [f"Policy: {network.parameter_count():,} parameters, {shape}, {len(network.config.vocabulary)} words"]
    width = max(map(len, counts))
    lines += [f"  {name:<{width}}{count:>12,}" for name, count in counts.items()]
    return "\n".join(lines + [token_table(network, body.name) for body in network.config.embodiments])
