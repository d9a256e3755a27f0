"""Passes side by side: the logits of one pass however images are cut, and no hook or thread stays."""

import threading

import pytest
import torch

from abra_wilds.tta.adapters import own_statistics
from abra_wilds.tta.bn_state import buffers_put_back
from abra_wilds.tta.together import together
from tests.helpers import worst
from tests.tta.reference import norms_of
from tests.tta.test_adapters import plate, trained


def whole_batch(norm, m, v):
    """Statistics of all images, as `plate_bn` takes them."""
    between, mean = torch.var_mean(m, dim=0, correction=0)
    norm.running_mean, norm.running_var = mean, v.mean(0) + between


def predicted(method, passes, set_norm=whole_batch):
    with buffers_put_back(method):
        return together(method.predict, passes, dict.fromkeys(norms_of(method), set_norm))


def nothing_left(method, before):
    """No hook of the norms, and no thread but those from before."""
    return set(threading.enumerate()) == before and not any(m._forward_pre_hooks for m in method.modules())


@pytest.mark.parametrize("sizes", [[12], [6, 6], [1, 11], [5, 4, 3], [1] * 12])
def test_passes_cut_in_any_way_give_the_logits_of_plate_bn_on_all_images(sizes):
    method, x, before = trained(), plate(0), set(threading.enumerate())
    wanted = own_statistics(method, [x])[0]
    found = predicted(method, x.split(sizes))
    assert [len(z) for z in found] == sizes and worst(torch.cat(found), wanted) < 1e-11
    assert not any(z.requires_grad for z in found) and nothing_left(method, before)


def test_a_norm_is_set_once_from_the_moments_of_all_images_in_their_order():
    method, x, seen = trained(), plate(0), []
    predicted(method, x.split([5, 4, 3]), lambda norm, m, v: seen.append((norm, m, v)))
    assert [norm for norm, _, _ in seen] == norms_of(method)
    at_first = method.net.stages["stem"][0](x).detach()
    torch.testing.assert_close(seen[0][1], at_first.mean((2, 3)))
    torch.testing.assert_close(seen[0][2], at_first.var((2, 3), correction=0))


class Broken(Exception):
    """What a test raises."""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_one_pass_raises_comes_out_as_itself_and_no_pass_waits_for_it(number):
    method, before = trained(), set(threading.enumerate())
    passes = plate(0).split([5, 4, 3])

    def failing(_module, args):
        if len(args[0]) == (5, 4, 3)[number]:
            raise Broken

    handle = method.net.stages["res3"][0].register_forward_pre_hook(failing)
    with pytest.raises(Broken):
        predicted(method, passes)
    handle.remove()
    assert nothing_left(method, before) and len(predicted(method, passes)) == 3


def test_what_setting_a_norm_raises_comes_out_as_itself():
    method, before = trained(), set(threading.enumerate())

    def failing(norm, m, v):
        raise Broken

    with pytest.raises(Broken):
        predicted(method, plate(0).split([5, 7]), failing)
    assert nothing_left(method, before)


def test_where_a_thread_cannot_be_started_the_others_end(monkeypatch):
    method, before, start = trained(), set(threading.enumerate()), threading.Thread.start

    def second_fails(thread):
        if any(t not in before for t in threading.enumerate()):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="start new thread"):
        predicted(method, plate(0).split([5, 4, 3]))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert nothing_left(method, before)
