"""Certificates of simulated bio-batches, whose temperatures and posteriors are known."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from abra_wilds.errors import InputError
from abra_wilds.tta.certificate import Labelled, _belief, _Judged, calibrate, certify, conformal_sets
from abra_wilds.tta.evidence import Calibration, look, temperature_from

O, CONTROLS = 10, 24
NO = torch.full((160,), -1)
PARTS = ("adapted", "unadapted", "wells")


def plate(T, seed, n=160, s=2.0):
    """Wells of two sites: x = s onehot(y) + noise has posterior softmax(s x), and logits are T times that.

    The unadapted logits agree the less, the larger T is. Of each bio-batch, CONTROLS images are controls.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(O, (n // 2,), generator=generator).repeat_interleave(2)
    x, other = (torch.randn(n, O, generator=generator) for _ in range(2))
    adapted = T * s * (s * torch.eye(O)[y] + x)
    wells, controls = torch.arange(n) // 2, torch.arange(n) < CONTROLS
    return Labelled(adapted, adapted + 3 * T**2 * other, y, wells, controls)


def right(b):
    """Whether the predictions in question are right."""
    return (b.adapted.argmax(1) == b.labels)[~b.controls]


def judged(c, b, **kwargs):
    """The certificate of a bio-batch whose controls are known."""
    known = b.labels.where(b.controls, -1)
    return certify(c, b.adapted, b.unadapted, b.wells, known, **kwargs)


@pytest.fixture(scope="module")
def calibration():
    """Of five bio-batches whose temperatures lie around 1."""
    return calibrate([plate(T, seed) for seed, T in enumerate((0.7, 0.9, 1.0, 1.2, 1.4))])


NEW = [plate(T, 100 + k) for k, T in enumerate((0.6, 0.8, 1.0, 1.3, 1.7, 2.0))]


def test_the_temperature_of_a_new_bio_batch_is_found(calibration):
    for b, T in zip(NEW, (0.6, 0.8, 1.0, 1.3, 1.7, 2.0), strict=True):
        assert math.log(judged(calibration, b).temperature) == pytest.approx(math.log(T), abs=0.25)


def test_accuracy_is_closer_than_average_confidence_and_in_its_interval(calibration):
    found = [judged(calibration, b) for b in NEW]
    true = [float(right(b).float().mean()) for b in NEW]
    confidence = [float(b.adapted.softmax(1).amax(1)[~b.controls].mean()) for b in NEW]
    ours = sum(abs(c.accuracy - a) for c, a in zip(found, true, strict=True))
    assert ours < sum(abs(c - a) for c, a in zip(confidence, true, strict=True)) / 3
    assert all(c.low <= a <= c.high for c, a in zip(found, true, strict=True))
    assert {c.n for c in found} == {160 - CONTROLS}


@pytest.mark.parametrize("level", [0.7, 0.9])
def test_sets_cover_their_level_in_every_bio_batch(calibration, level):
    for b in NEW:
        c = judged(calibration, b, level=level)
        sets = conformal_sets((b.adapted / c.temperature).log_softmax(1), c.threshold)
        covered = sets.gather(1, b.labels[:, None])[~b.controls, 0].float().mean()
        # Three standard deviations of as many coins, and what the temperature may be wrong by.
        assert float(covered) == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / c.n) + 0.02)


def test_the_class_that_makes_the_threshold_is_in_the_set():
    log_probs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert conformal_sets(log_probs, math.exp(float(log_probs[0, 1]))).tolist() == [[True, True, False]]


def test_what_is_seen_is_put_together_as_normal_distributions(calibration):
    """Against the product of densities on a grid."""
    b, c = NEW[4], calibration
    seen = look(b.adapted, b.unadapted, b.wells, b.labels.where(b.controls, -1), c.centre)
    agreement = float((b.adapted.argmax(1) == b.unadapted.argmax(1))[~b.controls].float().sum())
    x = (agreement + 2 * c.agreement) / (160 - CONTROLS + 2) - c.agreement
    t = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    log_density = -((t - c.centre - c.slope * x) ** 2) / (2 * c.variance)
    for (offset, variance), (mean, error) in ((c.sites, seen.sites), (c.controls, seen.controls)):
        log_density -= (mean - offset - t) ** 2 / (2 * (variance + error))
    w = log_density.softmax(0)
    mean, variance = temperature_from(c, seen)
    assert mean == pytest.approx(float((w * t).sum()), abs=1e-6)
    assert variance == pytest.approx(float((w * (t - mean) ** 2).sum()), rel=1e-4)


def test_only_the_labels_of_controls_enter(calibration):
    b = NEW[3]
    one = judged(calibration, b)
    assert judged(calibration, replace(b, labels=b.labels.where(b.controls, (b.labels + 3) % O))) == one
    assert judged(calibration, replace(b, labels=b.labels.where(~b.controls, (b.labels + 3) % O))) != one
    assert certify(calibration, b.adapted, b.unadapted, b.wells) != one


def test_the_order_of_images_and_a_constant_in_logits_do_not_matter(calibration):
    b, order = NEW[3], torch.randperm(160, generator=torch.Generator().manual_seed(0))
    moved = Labelled(*((getattr(b, k) + 5 * (k == "adapted"))[order] for k in PARTS[:2]), b.labels[order])
    moved = replace(moved, wells=b.wells[order], controls=b.controls[order])
    one, other = judged(calibration, b), judged(calibration, moved)
    assert other.accuracy == pytest.approx(one.accuracy, abs=1e-5)
    assert other.threshold == pytest.approx(one.threshold, rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_get_a_wide_interval_and_no_trust(calibration, n):
    b = NEW[2]
    c = certify(calibration, b.adapted[:n], b.unadapted[:n], b.wells[:n])
    assert (c.n, c.trusted) == (n, c.high - c.low <= 0.5)
    assert 0 <= c.low < c.accuracy <= c.high <= 1
    if n == 1:
        assert "too few" in c.reason


def test_without_wells_and_controls_the_interval_is_wider(calibration):
    b = NEW[3]
    plain = certify(calibration, b.adapted, b.unadapted)
    full = judged(calibration, b)
    assert plain.high - plain.low > full.high - full.low
    without = calibrate([replace(plate(T, k), wells=None, controls=None) for k, T in enumerate((0.8, 1.2))])
    assert (without.sites, without.controls) == (None, None)
    assert 0 < judged(without, b).accuracy < 1


def test_bio_batches_that_are_worse_than_known_ones_are_not_trusted(calibration):
    hard = plate(2.0, 7, s=0.8)
    c = judged(calibration, hard)
    assert not c.trusted
    assert "right, less than" in c.reason
    assert c.high < calibration.accuracy
    for least, trusted in ((0.0, True), (c.high - 1e-6, True), (c.high + 1e-6, False)):
        assert judged(calibration, hard, least=least).trusted == trusted
    near = replace(calibration, accuracy=c.high + 0.049), replace(calibration, accuracy=c.high + 0.051)
    assert [judged(one, hard).trusted for one in near] == [True, False]
    assert judged(calibration, NEW[2]).trusted


def test_controls_that_contradict_sites_are_an_alarm(calibration):
    b = NEW[0]
    wrong = replace(b, labels=b.labels.where(~b.controls, (b.labels + 3) % O))
    c = judged(calibration, wrong)
    assert not c.trusted
    assert "controls" in c.reason
    assert f" of {CONTROLS} are right" in c.reason


def test_a_calibration_survives_json(calibration):
    back = Calibration(**json.loads(json.dumps(asdict(calibration))))
    assert judged(back, NEW[1]) == judged(calibration, NEW[1])


def test_scores_are_of_bio_batches_left_out_and_at_most_a_thousand():
    pair = [plate(0.5, 0), plate(2.0, 1)]
    both, first = calibrate(pair), calibrate(pair[:1])
    assert len(both.scores) == 2 * (160 - CONTROLS)
    # Alone, a bio-batch is judged by itself and well; by one of another temperature it is not.
    assert first.inflation == pytest.approx(1, abs=0.3)
    assert len(calibrate([plate(1.0, k, n=600) for k in range(2)]).scores) == 1000
    assert list(both.scores) == sorted(both.scores)


def test_intervals_grow_with_errors_on_bio_batches_left_out():
    """Labels drawn at random in one of three: what the others say of it is wrong."""
    good = [plate(1.0, k) for k in range(3)]
    bad = replace(
        good[2], labels=good[2].labels[torch.randperm(160, generator=torch.Generator().manual_seed(1))]
    )
    assert calibrate([*good[:2], bad]).inflation > 2 * calibrate(good).inflation


def test_probabilities_of_zero_are_allowed_and_what_is_no_number_is_refused(calibration):
    b = NEW[2]
    certain = torch.where(torch.arange(O) == b.adapted.argmax(1)[:, None], 0.0, -math.inf)
    c = certify(calibration, certain, b.unadapted)
    assert c.accuracy == pytest.approx(1)
    assert c.low < 1 - 0.5 / 160
    broken = b.adapted.clone()
    broken[3, 3] = math.nan
    with pytest.raises(InputError, match="numbers"):
        certify(calibration, broken, b.unadapted)
    with pytest.raises(InputError, match="numbers"):
        calibrate([replace(b, adapted=broken)])


def test_what_has_nothing_to_judge_or_to_learn_from_is_refused(calibration):
    b = NEW[2]
    with pytest.raises(InputError, match="unknown class"):
        certify(calibration, b.adapted, b.unadapted, None, b.labels)
    with pytest.raises(InputError, match="unknown class"):
        calibrate([replace(b, controls=torch.ones(160, dtype=torch.bool))])
    with pytest.raises(InputError, match="none"):
        calibrate([])


def pushed(b, to):
    """A bio-batch whose images its class mix moves by 8 towards a class; None: to their own."""
    more = 8.0 * torch.eye(O)[b.labels if to is None else torch.full_like(b.labels, to)]
    return replace(b, adapted=b.adapted + more * (~b.controls)[:, None], uncorrected=b.adapted)


def test_a_class_mix_is_believed_as_far_as_labels_bear_it_out(calibration):
    plates = [plate(1.0, seed) for seed in range(4)]
    same = [replace(b, uncorrected=b.adapted) for b in plates]
    assert calibrate(same) == calibrate(plates) and calibrate(plates).belief == 0.5
    none, some, all_ = (
        calibrate([pushed(b, to) for b, to in zip(plates, classes, strict=True)]).belief
        for classes in ([3, 3, 3, 3], [3, 3, None, None], [None] * 4)
    )
    assert (1 / 6 <= none < 0.25 < some < all_) and all_ == pytest.approx(5 / 6, abs=0.01)


def test_the_belief_makes_labels_likeliest():
    plates = [pushed(plate(1.0, 0), 3), pushed(plate(1.2, 1), None), plate(0.9, 2)]
    judged = [_Judged(seen_of(b), (0.0, 0.1), b.labels) for b in plates]
    pairs = []
    for b in plates[:2]:
        for i in range(CONTROLS, len(b.labels)):
            after, before = (z[i].double().softmax(0)[b.labels[i]] for z in (b.adapted, b.uncorrected))
            pairs.append((float(after), float(before)))
    after, before = torch.tensor(pairs, dtype=torch.float64).T
    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    likeliest = grid[torch.stack([(w * after + (1 - w) * before).log().sum() for w in grid]).argmax()]
    assert _belief(judged) == pytest.approx((1 + 2 * float(likeliest)) / 4, abs=1e-3)
    assert _belief(judged[2:]) == 0.5


def seen_of(b):
    """What a bio-batch shows, by t around 0."""
    known = b.labels.where(b.controls, -1) if b.controls is not None else NO
    return look(b.adapted, b.unadapted, b.wells, known, 0.0, b.uncorrected)


def test_accuracy_is_mixed_by_the_belief_in_the_class_mix(calibration):
    b = replace(pushed(NEW[2], 3), wells=None, controls=None)
    t, _ = temperature_from(calibration, look(b.adapted, b.unadapted, None, NO, calibration.centre))
    before, after = ((z.double() / math.exp(t)).softmax(1) for z in (b.uncorrected, b.adapted))
    at = b.adapted.argmax(1)[:, None]
    for belief in (0.0, 0.3, 1.0):
        c = certify(replace(calibration, belief=belief), b.adapted, b.unadapted, uncorrected=b.uncorrected)
        p = (1 - belief) * before + belief * after
        assert c.accuracy == pytest.approx(float(p.gather(1, at).mean()))
        sure = (b.adapted.double() / c.temperature).softmax(1).amax(1).mean()
        assert float(sure) == pytest.approx(c.accuracy, abs=1e-4), "probabilities of the table say the same"


def test_a_wide_interval_says_what_makes_it_wide(calibration):
    b = NEW[2]
    unlike = replace(calibration, variance=4.0, sites=None, controls=None)
    c = certify(unlike, b.adapted, b.unadapted)
    assert c.reason == "the labelled bio-batches are too few, or too unlike one another, to tell"


def test_a_wrong_class_mix_is_not_trusted(calibration):
    b = pushed(NEW[2], 3)
    c = judged(calibration, b, uncorrected=b.uncorrected)
    assert (c.trusted, c.reason) == (False, "its images look like few classes, which may be wrong")
    assert c.low <= float(right(b).float().mean()) <= c.high
    assert judged(calibration, b).accuracy > 0.9, "what it said before it asked how far to believe"
