"""What a field may hold stands beside it, and one check refuses the rest by the name of its flag."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import pytest

from abra_wilds import METHODS
from abra_wilds.config.fields import Options, option
from abra_wilds.config.run import schema_of
from abra_wilds.errors import InputError

COMPARED = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
RANGES = [
    ({}, ""),
    ({"at_least": 0}, "0 or more"),
    ({"at_least": 2}, "2 or more"),
    ({"above": 0}, "positive"),
    ({"above": 1}, "above 1"),
    ({"at_least": 0, "at_most": 1}, "in [0, 1]"),
    ({"above": 0, "at_most": 1}, "in (0, 1]"),
    ({"at_least": 0, "below": 1}, "in [0, 1)"),
]


def options(**flag):
    """A section of one number."""

    @dataclass(frozen=True)
    class One(Options):
        prefix = "one_"
        x: float = option(0.5, "a number", **flag)

    return One


@pytest.mark.parametrize(("bounds", "words"), RANGES)
@pytest.mark.parametrize("x", [-1.0, 0.0, 0.5, 1.0, 2.0, 1e9, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("infinite", [False, True])
def test_a_number_is_accepted_where_every_bound_holds_and_it_is_finite_or_may_be_infinite(
    bounds, words, x, infinite
):
    inside = all(COMPARED[name](x, bound) for name, bound in bounds.items())
    kind = options(**bounds, infinite=infinite)
    if inside and (infinite or math.isfinite(x)):
        assert repr(kind(x).x) == repr(x)
        return
    if inside:
        words = "a finite number"
    elif infinite and not words.startswith("in "):
        words += ", or inf"
    with pytest.raises(InputError) as refused:
        kind(x)
    assert str(refused.value) == f"--one_x must be {words}; got {x!r}"


def test_of_several_values_each_is_checked_and_none_at_all_is_refused():
    @dataclass(frozen=True)
    class Many(Options):
        shares: tuple[float, ...] = option((0.5,), "numbers", at_least=0, at_most=1, distinct=True)
        sides: tuple[int, ...] = option((), "numbers", kind=int, at_least=32)
        limit: float | None = option(None, "a number", kind=float, above=0, name="most")

    assert Many((0.0, 1.0), (32,), 2.0).limit == 2.0
    for given, flag, got in (
        ({"shares": (0.5, 2.0)}, "shares", "2.0"),
        ({"shares": ()}, "shares", "()"),
        ({"shares": (0.5, 0.5)}, "shares", "(0.5, 0.5)"),
        ({"sides": (64, 8)}, "sides", "8"),
        ({"limit": 0.0}, "most", "0.0"),
    ):
        with pytest.raises(InputError) as refused:
            Many(**given)
        said = str(refused.value)
        assert said.startswith(f"--{flag} must be ") and said.endswith(f"; got {got}")


@pytest.mark.parametrize("name", METHODS)
def test_every_default_is_allowed_and_what_lies_just_outside_a_range_is_refused(name):
    schema = schema_of(METHODS[name].Config)
    schema.build({})
    for flag, setting in schema.settings.items():
        f = setting.flag
        outside = [b for b in (f.above, f.below) if b is not None]
        outside += [f.at_least - 1] if f.at_least is not None else []
        outside += [f.at_most + 1] if f.at_most is not None else []
        for value in map(f.kind, outside):
            with pytest.raises(InputError) as refused:
                schema.build({flag: value})
            assert str(refused.value) == f"--{flag} must be {f.range}; got {value!r}"
