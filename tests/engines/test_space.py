"""What may be searched, and what is tried of it before the first job."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from prune_cli.engines.space import Interval, Values, space_of
from prune_cli.errors import PruneError


def space(*overrides):
    return space_of(OverridesParser.create().parse_overrides(list(overrides)))


def test_overrides_become_knobs():
    made = space(
        "a=1", "b=x,y", "c=choice(1,'p q')", "d=range(1,4)", "e=interval(0,1)", "f=tag(log,int(interval(1,64)))"
    )
    assert made.fixed == {"a": "a=1"}
    assert made.knobs == {
        "b": Values(("x", "y"), ordered=False),
        "c": Values(("1", "p\\ q"), ordered=False),
        "d": Values(("1", "2", "3"), ordered=True),
        "e": Interval(0.0, 1.0, log=False, whole=False),
        "f": Interval(1, 64, log=True, whole=True),
    }


def test_jobs_keep_the_order_of_the_command_line_and_what_is_fixed_as_it_was_written():
    made = space("z='a b'", "b=1,2", "+new=[1,2]", "~gone", "a=3,4")
    assert made.job({"a": "4", "b": "1"}) == ("z='a b'", "b=1", "+new=[1,2]", "~gone", "a=4")


def test_the_later_of_two_counts():
    assert space("a=1", "a=2,3").knobs == {"a": Values(("2", "3"), ordered=False)}
    assert space("a=2,3", "b=4,5", "a=1").job({"b": "4"}) == ("a=1", "b=4")


def test_numbers_are_short_and_inside():
    knob = Interval(0.0031416, 0.1, log=True, whole=False)
    assert knob.text(0.018729834561273) == "0.01873"
    assert float(knob.text(0.0031416)) >= 0.0031416
    assert Interval(1, 9, log=False, whole=True).text(3.0) == "3"


def test_corners_show_every_value_and_both_ends():
    corners = list(space("fixed=1", "a=x,y,z", "b=interval(0.5,2)").corners())
    assert corners == [
        ("fixed=1", "a=x", "b=0.5"),
        ("fixed=1", "a=y", "b=0.5"),
        ("fixed=1", "a=z", "b=0.5"),
        ("fixed=1", "a=x", "b=2"),
    ]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["a=1"], "needs something to choose"),
        (["a=interval(2,1)"], "a: an interval goes from a smaller number"),
        (["a=tag(log,interval(0,1))"], "a: an interval with tag.log. starts above 0"),
        (["a=shuffle(range(1,4))"], "a: .*leave out shuffle"),
    ],
)
def test_what_cannot_be_searched_is_refused(overrides, message):
    with pytest.raises(PruneError, match=message):
        space(*overrides)
