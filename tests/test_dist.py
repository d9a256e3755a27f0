"""Numbers and objects across two processes, and which batches each of them takes."""

import numpy as np
import pytest
import torch

from abra_wilds import dist
from abra_wilds.data.samplers.batches import PlateSampler, SequentialSampler, ShuffledSampler
from abra_wilds.data.samplers.distributed import DistributedBatches, Rounds, evaluation_share, training_share
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.errors import InputError
from tests import ranks
from tests.runs import drawn

GROUPS = [0] * 7 + [1] * 5 + [2] * 9  # 21 rows in three bio-batches


def exchange():
    """Every function of tensors and objects, on numbers that tell the ranks apart."""
    k = dist.rank()
    mine = torch.tensor([1.0, 2.0]) + 10 * k
    kept = mine.clone()
    found = {
        "who": (k, dist.world(), dist.local_rank(), dist.local_world(), dist.is_main()),
        "mean": dist.mean_across_ranks(mine).tolist(),
        "means": [t.tolist() for t in dist.means_across_ranks([mine, torch.tensor([[4.0 * k]])])],
        "none": dist.means_across_ranks([]),
        "sum": dist.sum_across_ranks(mine.t()).tolist(),
        "max": dist.max_across_ranks(torch.tensor([-1, 5]) if k else torch.tensor([3, -1])).tolist(),
        "of_main": dist.broadcast(mine).tolist(),
        "gathered": dist.all_gather({"rank": k}),
        "on_main": dist.on_rank_zero(lambda: f"done by {k}"),
    }
    assert torch.equal(mine, kept)
    return found


def refuse_on_main():
    def work():
        raise InputError("no such folder")

    return dist.on_rank_zero(work)


def fail_at(failing):
    """One rank fails; the other waits for a number that never comes."""
    if dist.rank() == failing:
        raise InputError("no such image")
    return dist.mean_across_ranks(torch.ones(1))


def end_of(work, *args):
    """What became of work inside a group: its exception's type and text."""
    try:
        return "returned", ranks.together(work, *args)
    except (InputError, SystemExit) as end:
        return type(end).__name__, str(end)


def batches_of_rank():
    train = training_share(ShuffledSampler(24, 4, seed=0))
    plan = [BioBatch((np.arange(3 * k, 3 * k + 3),), True) for k in range(5)]
    passes = evaluation_share(PassSampler(plan, 2))
    return drawn(train), [group.passes[0].tolist() for group in passes.plan], len(passes.whole.plan)


def test_what_two_ranks_exchange(on_two_ranks):
    for k, found in enumerate(on_two_ranks(ranks.together, exchange)):
        assert found == {
            "who": (k, 2, k, 2, k == 0),
            "mean": [6.0, 7.0],
            "means": [[6.0, 7.0], [[2.0]]],
            "none": [],
            "sum": [12.0, 14.0],
            "max": [3, 5],
            "of_main": [1.0, 2.0],
            "gathered": [{"rank": 0}, {"rank": 1}],
            "on_main": "done by 0",
        }


def test_they_meet_again_after_they_parted(on_two_ranks):
    for _ in range(2):
        assert on_two_ranks(ranks.together, dist.all_gather, 1) == [[1, 1], [1, 1]]


def test_one_process_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    t = torch.ones(2)
    with dist.started():
        assert (dist.rank(), dist.world(), dist.local_world(), dist.launched()) == (0, 1, 1, 1)
        for f in (dist.mean_across_ranks, dist.sum_across_ranks, dist.max_across_ranks, dist.broadcast):
            assert f(t) is t
        assert dist.all_gather(3) == [3] and dist.on_rank_zero(lambda: 4) == 4
        sampler = SequentialSampler(5, 2)
        assert training_share(sampler) is sampler and evaluation_share(sampler) is sampler
        assert sampler.whole is sampler


def test_a_refusal_of_the_main_rank_ends_all_and_is_said_once(on_two_ranks):
    first, second = sorted(on_two_ranks(end_of, refuse_on_main))
    assert first == ("InputError", "no such folder") and second == ("SystemExit", "2")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_waits_for_one_that_failed_ends_silently(on_two_ranks, failing):
    found = on_two_ranks(end_of, fail_at, failing)
    assert found[failing] == ("InputError", "no such image")
    assert found[1 - failing] == ("SystemExit", "1")


def test_a_loader_takes_the_batches_of_its_rank(on_two_ranks):
    whole = drawn(ShuffledSampler(24, 4, seed=0))
    (first, plan0, n), (second, plan1, _) = on_two_ranks(ranks.together, batches_of_rank)
    assert first == whole[0::2] and second == whole[1::2]
    assert n == 5 and [plan0, plan1] == [[[0, 1, 2], [6, 7, 8], [12, 13, 14]], [[3, 4, 5], [9, 10, 11]]]


@pytest.mark.parametrize("world", [2, 3, 4, 5])
@pytest.mark.parametrize("epoch", [0, 3])
def test_training_deals_out_every_batch_in_equal_numbers_and_says_how_many_images(world, epoch):
    def sampler():
        return PlateSampler(GROUPS, 4, seed=1)

    whole = sampler()
    whole.set_epoch(epoch)
    expected = drawn(whole)  # 7 batches
    shares = [Rounds(sampler(), k, world) for k in range(world)]
    for share in shares:
        share.set_epoch(epoch)
    dealt = [drawn(share) for share in shares]
    assert {len(d) for d in dealt} == {len(share) for share in shares} == {-(-7 // world)}
    again = -7 % world
    in_order = [batch for turn in zip(*dealt, strict=True) for batch in turn]
    assert in_order == [*expected, *expected[:again]]
    assert {share.images_per_epoch for share in shares} == {sum(map(len, in_order))}
    assert {share.repeated for share in shares} == {again}


@pytest.mark.parametrize(("n", "world"), [(10, 2), (9, 2), (3, 4)])
def test_evaluation_deals_out_every_batch_once(n, world):
    whole = SequentialSampler(n, 2)
    shares = [DistributedBatches(SequentialSampler(n, 2), k, world) for k in range(world)]
    dealt = [drawn(share) for share in shares]
    assert [len(d) for d in dealt] == [len(share) for share in shares]
    assert sorted(batch for d in dealt for batch in d) == drawn(whole)
