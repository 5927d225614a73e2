"""Colours of pictures of episodes and of recorded policies.

Most are those of Okabe and Ito (2008), which people with any colour vision tell apart.
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
#: Colours beside those of Okabe and Ito.
PURPLE, BROWN, GRAY, SILVER = "#AA4499", "#8C6D31", "#666666", "#7F7F7F"

#: Curves of a picture of an episode, in their order.
CYCLE = (ORANGE, GREEN, PURPLE, BLUE, BROWN, SKY, GOLD, GRAY)

#: Policies that a report compares, and the update rules that they choose.
COLORS = (BLUE, ORANGE, GREEN, PINK, GOLD, SKY, SILVER)
RULE_COLORS = (*COLORS, BLACK, YELLOW)

#: Letters at ticks, labels of a figure, spines, lines between rows, rows without values.
TEXT, DARK, FRAME, SEPARATOR, EMPTY = "#333333", "#404040", "#999999", "#DDDDDD", "#EEEEEE"

#: A run that has diverged, and the mark of a minimum.
ALARM, MARK = "#C00000", "#FFE000"
