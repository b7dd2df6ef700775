"""Statistics: exact on known arrays, safe on constant channels, and the same after a trip through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polysoma.data.statistics import Accumulator, Statistics
from polysoma.errors import PolysomaError


def test_known_array() -> None:
    statistics = Statistics.of(np.stack([np.arange(101), np.arange(101) * -2], axis=1).astype(np.float32))
    np.testing.assert_allclose(statistics.mean, [50, -100])
    np.testing.assert_allclose(statistics.std, [np.arange(101).std(), 2 * np.arange(101).std()], rtol=1e-6)
    np.testing.assert_allclose([statistics.low, statistics.high], [[0, -200], [100, 0]])
    np.testing.assert_allclose([statistics.q01, statistics.q99], [[1, -198], [99, -2]])
    assert statistics.count == 101
    assert statistics.mean.dtype == statistics.scale.dtype == np.float32


def test_small_spread_far_from_zero_is_not_lost() -> None:
    values = 1e6 + np.random.default_rng(0).normal(size=(50_000, 1))
    accumulator = Accumulator(*values.shape)
    for piece in np.array_split(values, 7):
        accumulator.add(piece)
    result = accumulator.result()
    np.testing.assert_allclose(result["std"], values.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(result["q10"], np.quantile(values, 0.1, axis=0))


def test_quantiles_of_many_rows_come_from_evenly_spaced_ones() -> None:
    values = np.random.default_rng(0).permutation(2_500_000).astype(np.float32)[:, None]
    statistics = Statistics.of(values)
    assert statistics.q99[0] == pytest.approx(0.99 * len(values), rel=1e-3)
    assert (statistics.low[0], statistics.high[0]) == (0, len(values) - 1)


def test_constant_channels_normalise_to_zero() -> None:
    values = np.stack([np.full(1000, 0.1), np.full(1000, 12345.678), np.linspace(0, 1, 1000)], axis=1)
    values = values.astype(np.float32)
    statistics = Statistics.of(values)
    assert statistics.scale[:2].tolist() == [1, 1]
    assert statistics.scale[2] == statistics.std[2] > 0
    assert np.abs((values - statistics.mean) / statistics.scale)[:, :2].max() < 1e-3


def test_json_round_trip_and_what_is_missing() -> None:
    statistics = Statistics.of(np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32))
    data = json.loads(json.dumps(statistics.to_json()))
    back = Statistics.from_json(data)
    for name in ("mean", "std", "low", "high", "q01", "q99"):
        np.testing.assert_array_equal(getattr(back, name), getattr(statistics, name))
    assert back.count == 10
    del data["q99"]
    with pytest.raises(PolysomaError, match="statistics: q99 is missing"):
        Statistics.from_json(data)


@pytest.mark.parametrize("shape", [(0, 3), (5,), (5, 2, 2)])
def test_no_statistics_of_nothing(shape: tuple[int, ...]) -> None:
    with pytest.raises(PolysomaError, match="expected"):
        Statistics.of(np.zeros(shape, np.float32))
