"""--preset paper_text: what the paper says in words and nothing else."""

import math

from abra_wilds import run_config


def test_the_text_of_the_paper_is_one_flag():
    config = run_config("ABRA", preset="paper_text")
    m, d, o = config.method, config.data, config.optim
    assert (m.at, m.k_unit, m.k_init, m.k_bound, m.two_forward) == (
        ("res4",),
        "absolute",
        0.1,
        math.inf,
        True,
    )
    assert (m.alpha, m.ascent_steps, m.noise_shape, set(m.terms)) == (None, 1, "batch", {"ce", "arc", "js"})
    assert (d.train_loader, d.bio_batch, d.mix, d.transform, d.batch_size) == (
        "plate",
        "plate",
        "cutmix",
        "paper",
        128,
    )
    assert (o.scheduler, o.lr, o.warmup_epochs, o.warmup_from) == (
        "constant_schedule_with_warmup",
        1e-2,
        10,
        1e-4,
    )
    assert (config.eval.bn_stats, config.preset) == ("running", "paper_text")
    other = run_config("ERM", preset="paper_text")
    assert other.optim == o and other.data.train_loader == "standard"
