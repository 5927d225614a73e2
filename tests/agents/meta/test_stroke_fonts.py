"""Characters of stroke fonts: random distortions, and duplicates among fonts."""

from __future__ import annotations

import numpy as np
import pytest

from agents import meta
from agents.meta.families.stroke_fonts import TEST, TRAINING, canonical_form


def test_drawings_of_a_character_are_distorted_at_random():
    fonts = ("futural", "greek")
    found = meta.glyphs(fonts, side=20, drawings=4)
    assert set(found.groups) == set(fonts) and len(found.groups) > 100
    assert found.pictures.shape[1:] == (4, 20, 20)
    assert 0 <= found.pictures.min() and found.pictures.max() <= 1
    ink = found.pictures.mean((2, 3))
    assert (ink > 0.01).all() and (ink < 0.6).all()
    flat = found.pictures.reshape(len(found.groups), 4, -1)
    flat = flat / np.linalg.norm(flat, axis=2, keepdims=True)
    same = (flat[:, 0] * flat[:, 1]).sum(1)
    other = (flat[:-1, 0] * flat[1:, 1]).sum(1)
    assert same.max() < 0.999 and same.mean() > other.mean() + 0.15
    again = meta.glyphs(("futural",), side=20, drawings=4)
    np.testing.assert_array_equal(again.pictures, found.within(["futural"]).pictures)
    with pytest.raises(ValueError, match="unknown font 'arial'; valid fonts: futural"):
        meta.glyphs(["arial"])


def test_training_and_test_fonts_are_disjoint():
    assert not set(TRAINING) & set(TEST)


def test_characters_shared_by_fonts_appear_once():
    one, two = ("cyrillic",), ("cyrilc_1",)
    counts = [len(meta.glyphs(f, drawings=1).groups) for f in (one, two, one + two)]
    assert counts[2] < counts[0] + counts[1] - 20
    rest = meta.glyphs(two, drawings=1, without=one)
    assert len(rest.groups) == counts[2] - counts[0]
    assert not meta.glyphs(one, drawings=1, without=one).groups
    with pytest.raises(TypeError, match="fonts must be a list of names, got 'greek'"):
        meta.glyphs("greek")


def test_form_is_invariant_to_position_size_rotation_and_direction():
    hook, dash = np.array([[0.0, 0], [0, 9], [4, 9]]), np.array([[1.0, 3], [3, 4]])
    form = canonical_form([hook, dash])
    turn = np.array([[0, -1], [1, 0]])
    moved = [3 * dash[::-1] @ turn + 5, 3 * hook @ turn + 5]
    assert canonical_form(moved) == form
    assert canonical_form([hook, dash * [1, 1.2]]) != form
    assert canonical_form([hook * [-1, 1], dash * [-1, 1]]) != form, "a mirror image"
