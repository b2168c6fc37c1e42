"""A small history of lag as a line in SVG, with a sentence for those who do not see it.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from stigmem_replicator.observe import words
from stigmem_replicator.observe.board import HISTORY_POINTS, HISTORY_SECONDS

_WIDTH: Final = 120
_HEIGHT: Final = 28
_FLAT_HEIGHT: Final = 6
_EDGE: Final = 2
_FLOOR_MS: Final = 60_000
"""What fills the height at least, so that a second of lag is not drawn as a mountain."""

_Point = tuple[float, float]


def sparkline(history: Sequence[int | None]) -> str:
    """Return the lags of a peer, the newest at the right edge; nothing where there are none.

    ``history`` has milliseconds, oldest first, one for each 30 seconds, None where it could not
    be told: there the line is broken.
    """
    history = history[-HISTORY_POINTS:]
    known = [lag for lag in history if lag is not None]
    if not known:
        return ""
    flat = not any(known)
    height = _FLAT_HEIGHT if flat else _HEIGHT
    runs = list(_runs(history, max(_FLOOR_MS, *known), height))
    line = "".join(_path(run) for run in runs)
    area = "".join(f"{_path(run)}V{height}H{run[0][0]:g}Z" for run in runs)
    return (
        f'<svg class="history{" flat" if flat else ""}" role="img" '
        f'viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none">'
        f"<title>{_sentence(history, known)}</title>"
        f'<path class="area" d="{area}"/><path d="{line}"/></svg>'
        + ("" if flat else f'<small class="note">peak {words.span(max(known) / 1000)}</small>')
    )


def _sentence(history: Sequence[int | None], known: Sequence[int]) -> str:
    minutes = words.span(len(history) * HISTORY_SECONDS)
    gaps = ", not known at times" if len(known) < len(history) else ""
    if not max(known):
        return f"no lag in the last {minutes}{gaps}"
    return f"lag in the last {minutes}: at most {words.span(max(known) / 1000)}{gaps}"


def _runs(history: Sequence[int | None], top_ms: int, height: int) -> Iterator[list[_Point]]:
    """Yield the stretches without a gap, each without the points inside a level stretch."""
    run: list[_Point] = []
    first = HISTORY_POINTS - len(history)
    for place, lag in enumerate(history, first):
        if lag is None:
            if run:
                yield run
            run = []
            continue
        x = round(place * _WIDTH / (HISTORY_POINTS - 1), 1)
        y = round(height - _EDGE - lag / top_ms * (height - 2 * _EDGE), 1)
        if len(run) > 1 and run[-1][1] == run[-2][1] == y:
            run.pop()
        run.append((x, y))
    if run:
        yield run


def _path(run: Sequence[_Point]) -> str:
    """Return a stretch as a path; a single point is a line of no length, which is a dot."""
    (x, y), *others = run
    rest = "".join(f"L{x:g} {y:g}" for x, y in others) or "h0"
    return f"M{x:g} {y:g}{rest}"
