"""Players of MinAtar's games: rules that look some frames ahead in the game itself.

What comes is played in a copy of the game in which the player is out of the way and nothing new appears. A way through
it is found by spreading out from where the player is, frame by frame, over the cells where nothing will hit it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

STAY, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
_MOVES = {STAY: (0, 0), LEFT: (0, -1), UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0)}
"""Rows and columns."""
_FRAMES = 20
"""Looked ahead."""
_CROSSING = 60
"""Looked ahead on a road: the fastest crossing takes 27 frames."""
_AWAY = -9
"""Where nothing meets the player."""
_LATER = 1_000_000
_RETURNS = 2
"""Times that the ball comes back, looked ahead."""
_BREATH = 30
"""Oxygen that is left, beside two for each row, when the submarine rises."""


def breakout(game: Any) -> int:
    """The paddle goes where the ball will come down: of the two cells that return it, to that from which it will break
    more bricks."""
    landing, frames, _ = _landing(_copied(game))
    near = [x for x in _returning(landing) if abs(x - game.pos) <= frames + 1]
    if not near:
        return STAY
    aim = max(near, key=lambda x: (_bricks(landing, x, _RETURNS), -abs(x - game.pos)))
    return LEFT if aim < game.pos else RIGHT if aim > game.pos else STAY


def _landing(game: Any) -> tuple[Any, int, int]:
    """Plays on until the paddle must be in place: the game there, the frames until then, and the bricks on the way."""
    frames = bricks = 0
    while not (game.ball_y == 8 and game.ball_dir in (2, 3)):
        reward, _ = game.act(STAY)
        frames, bricks = frames + 1, bricks + reward
    return game, frames, bricks


def _returning(landing: Any) -> set[int]:
    """Cells of the paddle that return the ball: straight below it, and where it is going."""
    ahead = landing.ball_x + (1 if landing.ball_dir == 2 else -1)
    return {int(landing.ball_x), int(np.clip(ahead, 0, 9))}


def _bricks(landing: Any, paddle: int, returns: int) -> int:
    """Bricks that the ball breaks until it has come back so many times, sooner ones counting more."""
    game = _copied(landing)
    game.pos = paddle
    game.act(STAY)
    game, _, bricks = _landing(game)
    if returns == 1:
        return bricks
    return 2 * bricks + max(_bricks(game, x, returns - 1) for x in _returning(game))


def freeway(game: Any) -> int:
    """The soonest way across, between the cars. The chicken moves in one frame of three."""
    cars = _foresee(game, _CROSSING, pos=9)[:, :, 4, game.channels["car"]]
    blocked = cars[:-1] | cars[1:]
    # Where it can be (row, frames until it may move), and the first action of the way there.
    ways: dict[tuple[int, int], int] = {(game.pos, int(game.move_timer)): -1}
    for frame in range(_CROSSING):
        following: dict[tuple[int, int], int] = {}
        for (row, wait), first in ways.items():
            for action in (STAY,) if wait else (UP, STAY, DOWN):
                there = min(9, row + _MOVES[action][0])
                begun = action if first < 0 else first
                if there == 0:
                    return begun
                if not blocked[frame, there]:
                    following.setdefault((there, max(0, (wait if there == row else 3) - 1)), begun)
        if not following:
            break
        ways = following
    return max(0, next(iter(ways.values())))


def asterix(game: Any) -> int:
    """To the gold that can be had soonest, past the enemies."""
    grids = _foresee(game, player_x=_AWAY, player_y=_AWAY, spawn_timer=_LATER)
    danger, gold = (_met(grids, game, name) for name in ("enemy", "gold"))
    danger[:, [0, 9]] = True
    danger[game.spawn_timer :, 1:9, [0, 9]] = True  # where enemies appear
    action, _ = _way((game.player_y, game.player_x), danger, gold)
    return action


def space_invaders(game: Any) -> int:
    """Under an alien that a shot will hit, out of the way of theirs."""
    grids = _foresee(game)
    aliens, bullets = (grids[..., game.channels[name]] for name in ("alien", "enemy_bullet"))
    danger = aliens[:-1, 9:] | aliens[1:, 9:] | bullets[1:, 9:]
    hits = np.zeros(danger.shape, bool)
    for frame in range(_FRAMES):
        for flown in range(min(9, _FRAMES - frame)):
            hits[frame, 0] |= aliens[frame + 1 + flown, 8 - flown]
    ready = hits & (np.arange(_FRAMES) >= game.shot_timer)[:, None, None]
    action, lasts = _way((0, game.pos), danger, ready)
    return FIRE if ready[0, 0, game.pos] and lasts[STAY] else action


def seaquest(game: Any) -> int:
    """Divers and places to shoot from, whichever is nearer, past what swims and shoots; up while there is oxygen."""
    grids = _foresee(game, sub_x=_AWAY, sub_y=5, e_spawn_timer=_LATER, d_spawn_timer=_LATER)
    danger = _met(grids, game, "enemy_fish", "enemy_sub", "enemy_bullet")
    enemies = _met(grids, game, "enemy_fish", "enemy_sub")
    danger[:, 9] = True
    danger[game.e_spawn_timer :, 1:9, [0, 9]] = True  # where enemies appear
    row, column = game.sub_y, game.sub_x
    ends = game.oxygen < _BREATH + 2 * row
    if game.diver_count == 6 or (game.diver_count and ends):
        prize = np.zeros(danger.shape, bool)
        prize[:, 0] = True
    else:
        if row:
            # Nor near the surface, as a move up may be repeated.
            danger[:, : 1 + (row > 1)] = True
        prize = _met(grids, game, "diver")
        if game.oxygen > _BREATH or game.diver_count:
            for distance in (2, 3):
                prize[:, 1:, distance:] |= enemies[:, 1:, :-distance]
                prize[:, 1:, :-distance] |= enemies[:, 1:, distance:]
    action, lasts = _way((row, column), danger, prize)
    towards, hit = (RIGHT if game.sub_or else LEFT), False
    for frame in range(_FRAMES):
        x = column + (frame + 1) * _MOVES[towards][1]
        hit |= 0 <= x <= 9 and bool(enemies[frame, row, x])
    if hit and game.shot_timer == 0 and lasts[STAY]:
        return FIRE
    behind = [x for x in np.flatnonzero(enemies[0, row]) if (x < column) == (towards == RIGHT) and abs(x - column) > 2]
    turn = LEFT if towards == RIGHT else RIGHT
    return turn if behind and not hit and lasts[turn] and prize[0, row, column] else action


PLAYERS: dict[str, Callable[[Any], int]] = {
    "asterix": asterix,
    "breakout": breakout,
    "freeway": freeway,
    "seaquest": seaquest,
    "space_invaders": space_invaders,
}
"""Of each game: its ``Env`` as it is now to the index of the action. Games are not changed."""


def _copied(game: Any) -> Any:
    """A game to play ahead in. It draws nothing: draws would be missing in the game itself."""
    ahead = copy.copy(game)
    vars(ahead).update(copy.deepcopy({name: value for name, value in vars(game).items() if name != "random"}))
    ahead.random = None
    return ahead


def _foresee(game: Any, frames: int = _FRAMES, **changes: Any) -> np.ndarray:
    """The grids that come while the player does nothing, bool ``(frames + 1, 10, 10, channels)``, from the present one
    on, with some attributes changed before."""
    ahead = _copied(game)
    vars(ahead).update(changes)
    grids = [ahead.state()]
    for _ in range(frames):
        ahead.act(STAY)
        ahead.terminal = False
        grids.append(ahead.state())
    return np.stack(grids)


def _met(grids: np.ndarray, game: Any, *names: str) -> np.ndarray:
    """The cells where the player meets what is in these channels, bool ``(frames, 10, 10)``: it is asked before the
    others move, and again after it."""
    held: Any = grids[..., [game.channels[name] for name in names]].any(-1)
    both: np.ndarray = held[:-1] | held[1:]
    return both


def _way(start: tuple[int, int], danger: np.ndarray, prize: np.ndarray) -> tuple[int, np.ndarray]:
    """The move with which the way begins that goes on longest, of those the one that comes to a prize soonest, of those
    the one that leaves most cells to go to.

    Args:
        start: row and column.
        danger: bool ``(frames, rows, columns)``, where the player must not be after its move of each frame.
        prize: the same, where it wants to be.

    Returns:
        The move, and for each move whether a way that goes on as long begins with it, bool ``(5,)``.
    """
    # A cell is left a frame too early where that can be, as one move in ten is not done.
    soon = danger.copy()
    soon[:-1] |= danger[1:]
    best, lasting = _ways(start, soon, prize)
    if lasting.max() < len(danger):
        best, lasting = _ways(start, danger, prize)
    return best, lasting == lasting.max()


def _ways(start: tuple[int, int], danger: np.ndarray, prize: np.ndarray) -> tuple[int, np.ndarray]:
    """As :func:`_way`, with the frames that the longest way of each move goes on."""
    frames, rows, columns = danger.shape
    reach = np.zeros((len(_MOVES), rows, columns), bool)
    for move, (down, right) in _MOVES.items():
        reach[move, min(max(start[0] + down, 0), rows - 1), min(max(start[1] + right, 0), columns - 1)] = True
    lasting, arrival = np.zeros(len(_MOVES), int), np.full(len(_MOVES), frames)
    for frame in range(frames):
        if frame:
            before, reach = reach, reach.copy()
            reach[:, 1:] |= before[:, :-1]
            reach[:, :-1] |= before[:, 1:]
            reach[:, :, 1:] |= before[:, :, :-1]
            reach[:, :, :-1] |= before[:, :, 1:]
        reach &= ~danger[frame]
        lasting[reach.any((1, 2))] = frame + 1
        arrival[(reach & prize[frame]).any((1, 2)) & (arrival == frames)] = frame
    room = reach.sum((1, 2))
    return max(_MOVES, key=lambda move: (lasting[move], -arrival[move], room[move])), lasting
