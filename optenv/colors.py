"""Colours of pictures of episodes and of recorded policies.

Most are from the palette of Okabe and Ito (2008), which people with any colour vision can
tell apart.
"""

from __future__ import annotations

__all__ = [
    "ALARM",
    "BLACK",
    "BLUE",
    "BROWN",
    "COLORS",
    "CYCLE",
    "DARK",
    "EMPTY",
    "FRAME",
    "GOLD",
    "GRAY",
    "GREEN",
    "MARK",
    "ORANGE",
    "PINK",
    "PURPLE",
    "RULE_COLORS",
    "SEPARATOR",
    "SILVER",
    "SKY",
    "TEXT",
    "YELLOW",
]

BLUE, ORANGE, GREEN, GOLD, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
PINK, YELLOW, BLACK = "#CC79A7", "#F0E442", "#000000"
#: Colours that are not from the palette of Okabe and Ito.
PURPLE, BROWN, GRAY, SILVER = "#AA4499", "#8C6D31", "#666666", "#7F7F7F"

#: Colours of the curves in a picture of an episode, in their order.
CYCLE = (ORANGE, GREEN, PURPLE, BLUE, BROWN, SKY, GOLD, GRAY)

#: Colours of the policies that a report compares, and of the update rules they choose.
COLORS = (BLUE, ORANGE, GREEN, PINK, GOLD, SKY, SILVER)
RULE_COLORS = (*COLORS, BLACK, YELLOW)

#: Colours of tick labels, titles, spines, lines between rows, and rows without values.
TEXT, DARK, FRAME, SEPARATOR, EMPTY = "#333333", "#404040", "#999999", "#DDDDDD", "#EEEEEE"

#: Colours of a run that has diverged, and of the mark of a minimum.
ALARM, MARK = "#C00000", "#FFE000"
