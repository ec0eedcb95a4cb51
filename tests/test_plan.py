"""Plans are data: they print, survive JSON and refuse what is not one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_cli.errors import PruneError
from prune_cli.plan import Drop, Plan, Width

names = st.text(min_size=1, max_size=20)
numbers = st.lists(st.integers(0, 500), max_size=20).map(tuple)
edits = st.one_of(st.builds(Width, names, numbers, st.none() | numbers), st.builds(Drop, names))


@given(st.builds(Plan, st.lists(edits, max_size=5).map(tuple), st.lists(names, max_size=3).map(tuple)))
def test_json_and_back(plan):
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_public_form():
    plan = Plan(
        (Width("layer1.0.conv1", (0, 2, 3)), Width("b", (0,), (0, 0)), Drop("layer1.1")), ("bn",), {"beta": 0.5}
    )
    assert plan.to_json() == {
        "edits": [
            {"group": "layer1.0.conv1", "keep": [0, 2, 3]},
            {"group": "b", "keep": [0], "into": [0, 0]},
            {"drop": "layer1.1"},
        ],
        "fresh": ["bn"],
        "notes": {"beta": 0.5},
    }
    assert str(plan).splitlines() == [
        "keep  layer1.0.conv1: 3 channels 0 2-3",
        "merge b: 1 channels 0",
        "drop  layer1.1",
        "fresh bn",
    ]
    assert str(Plan()) == "no edits"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"edits": 3},
        {"edits": [{}]},
        {"edits": [{"group": "a"}]},
        {"edits": [{"group": "a", "keep": [0.5]}]},
    ],
)
def test_what_is_not_a_plan_is_refused(value):
    with pytest.raises(PruneError, match="not a plan"):
        Plan.from_json(value)
