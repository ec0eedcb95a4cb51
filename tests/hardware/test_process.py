"""Fresh processes: what is sent arrives as it was, what goes wrong there is told here."""

import os

import pytest
import torch
from torch import nn

from prune_cli.errors import PruneError
from prune_cli.hardware.process import Parcel, fresh
from tests.networks import TINY, images, make


def outputs_and_threads(parcel, x):
    return parcel.open()(x).detach(), torch.get_num_threads(), os.getpid(), os.environ["OMP_WAIT_POLICY"]


@pytest.mark.parametrize("name", TINY)
def test_a_network_arrives_as_it_was(name):
    model, shape = make(name)
    before = {k: v.data_ptr() for k, v in model.state_dict().items()}
    there, _, pid, policy = fresh(outputs_and_threads, Parcel(model), images(shape))
    assert torch.equal(there, model(images(shape))) and pid != os.getpid() and policy == "PASSIVE"
    assert before == {k: v.data_ptr() for k, v in model.state_dict().items()}  # not moved into shared memory


class Odd(nn.Module):
    """What state dicts leave out, or hold twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.arange(4), persistent=False)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.plain = torch.full((4,), 2.0)

    def forward(self, x):
        return self.second(self.first(x) * self.hidden) * self.plain


def test_hidden_buffers_and_shared_weights_arrive_too():
    model, x = Odd().eval(), torch.randn(3, 4)
    assert torch.equal(fresh(outputs_and_threads, Parcel(model), x)[0], model(x))


def fail():
    raise ValueError("as expected")


def test_errors_come_back_and_death_is_one_line():
    with pytest.raises(ValueError, match="as expected"):
        fresh(fail)
    with pytest.raises(PruneError, match="its process died"):
        fresh(os._exit, 1)
    assert fresh(len, "still well") == 10
