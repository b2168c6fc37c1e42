"""How the status page looks: its style sheet and its icons, both inside the page.

Nothing is fetched from anywhere; the server allows this style sheet alone, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --line: #d9dde3; --text: #1b1f24; --soft: #565e68;
  --good: #11632f; --good-on: #e1f3e7; --busy: #0b4f9c; --busy-on: #e2eefb;
  --warn: #774900; --warn-on: #fdefd0; --bad: #9c1020; --bad-on: #fde3e3;
  --calm: #4a515b; --calm-on: #eaecf0; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1d2126; --line: #343a42; --text: #e8eaed; --soft: #a5adb8;
  --good: #8fdca8; --good-on: #14321f; --busy: #9cc7ff; --busy-on: #14294a;
  --warn: #f3c76b; --warn-on: #392a0a; --bad: #ffa3a3; --bad-on: #46171b;
  --calm: #c3c9d1; --calm-on: #2b3037; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; }
header, main, footer { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.25rem; }
h1 { margin: 0; font-size: 1.35rem; line-height: 1.3; display: flex; gap: .6rem;
  align-items: center; }
h1 svg { width: 1.6rem; height: 1.6rem; }
h2 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .25rem 0; }
a { color: var(--busy); }
code { font: .92em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
small, .soft { color: var(--soft); font-size: .82rem; }
svg { flex: none; width: 1em; height: 1em; fill: none; stroke: currentColor; stroke-width: 2;
  stroke-linecap: round; stroke-linejoin: round; }
.good { --ink: var(--good); --on: var(--good-on); }
.busy { --ink: var(--busy); --on: var(--busy-on); }
.warn { --ink: var(--warn); --on: var(--warn-on); }
.bad { --ink: var(--bad); --on: var(--bad-on); }
.calm { --ink: var(--calm); --on: var(--calm-on); }
h1 svg { color: var(--ink); }
.banner { background: var(--on); color: var(--ink); border-left: .3rem solid; padding: .7rem 1rem;
  border-radius: .4rem; margin: .9rem 0 0; overflow-wrap: anywhere; }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0;
  margin: .9rem 0; }
.badge { display: inline-flex; align-items: center; gap: .35rem; background: var(--on);
  color: var(--ink); border-radius: .4rem; padding: .1rem .5rem; font-weight: 600;
  font-size: .88rem; white-space: nowrap; }
table { width: 100%; border-collapse: separate; border-spacing: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
th { text-align: left; font-size: .82rem; font-weight: 600; color: var(--soft); }
th, td { padding: .6rem .75rem; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; }
tbody th { font-weight: 400; color: var(--text); font-size: inherit; width: 27%; }
td.state { width: 37%; }
td.state > div { margin-top: .25rem; }
td.state p { overflow-wrap: anywhere; font-size: .88rem; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
tbody tr.bad > :first-child { box-shadow: inset .25rem 0 var(--ink); }
tbody tr.warn > :first-child { box-shadow: inset .25rem 0 var(--ink); }
.step { color: var(--text); }
.step b { font-weight: 600; }
.history { display: block; width: 7.5rem; max-width: 100%; height: 1.75rem; color: var(--ink);
  stroke-width: 1.5; margin-top: .2rem; }
.history.flat { height: .4rem; margin-top: .4rem; }
.history .area { stroke: none; fill: currentColor; opacity: .16; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.note { display: block; }
footer { padding-top: .9rem; padding-bottom: 2rem; }
@media (max-width: 60rem) {
  header, main, footer { padding-left: .75rem; padding-right: .75rem; }
  table, tbody { display: block; background: none; border: 0; border-radius: 0; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { display: flex; flex-wrap: wrap; background: var(--card);
    border: 1px solid var(--line); border-radius: .6rem; padding: .35rem 0;
    margin-bottom: .75rem; }
  tbody tr.bad, tbody tr.warn { border-left: .3rem solid var(--ink); }
  tbody tr > :first-child { box-shadow: none !important; }
  tbody th, td { display: block; border: 0; padding: .35rem .75rem; width: auto !important; }
  tbody th, td.state { flex: 1 0 100%; }
  td.number::before { content: attr(data-label); display: block; color: var(--soft);
    font-size: .82rem; }
  td.none { display: none; }
}
@media print { body { background: none; } tr { break-inside: avoid; } }
"""

STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""What the server says of the style sheet, so that a browser takes this one and no other."""

ICONS: Final[dict[str, str]] = {
    "idle": '<circle cx="12" cy="12" r="9"/><path d="M8 12.5l2.7 2.7L16 9.5"/>',
    "catching_up": '<path d="M12 3v13M6.5 11l5.5 5.5 5.5-5.5M5 21h14"/>',
    "throttled": '<circle cx="12" cy="12" r="9"/><path d="M12 7v5l3.5 2"/>',
    "backing_off": '<path d="M12 3.5L22 20.5H2zM12 10v4.5M12 17.5v.1"/>',
    "blocked": '<path d="M8 3h8l5 5v8l-5 5H8l-5-5V8zM9 9l6 6M15 9l-6 6"/>',
    "paused": '<path d="M8.5 5v14M15.5 5v14"/>',
    "elsewhere": '<path d="M4 8.5h15M15 4.5l4 4-4 4M20 16.5H5M9 12.5l-4 4 4 4"/>',
    "inactive": '<circle cx="12" cy="12" r="9"/><path d="M8 12h8"/>',
}
"""The inside of a picture of 24 by 24 for each state: shapes that differ without colour."""


def symbols() -> str:
    """Return all icons, to be put into the page once."""
    drawn = "".join(
        f'<symbol id="i-{name}" viewBox="0 0 24 24">{inside}</symbol>'
        for name, inside in ICONS.items()
    )
    return f'<svg width="0" height="0" aria-hidden="true" display="none">{drawn}</svg>'


def icon(name: str) -> str:
    """Return one icon, which says nothing to those who do not see it."""
    return f'<svg aria-hidden="true"><use href="#i-{name}"/></svg>'
