"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from abra_wilds.config.run import RunConfig
from abra_wilds.data.datasets.catalogue import described, is_simulated, training_digest
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.dist import all_gather, on_rank_zero, rank, started, world
from abra_wilds.engine.artifacts.checkpoint import Progress, common_progress, load_checkpoint
from abra_wilds.engine.artifacts.folder import (
    check_last_model,
    check_same_run,
    folder_of,
    forget_first_epoch,
    hold_folder,
    mark_finished,
    open_folder,
    write_config,
)
from abra_wilds.engine.artifacts.logs import DivergenceCheck, Meter, TextLog, no_bar
from abra_wilds.engine.artifacts.origins import start_lines
from abra_wilds.engine.artifacts.trackers import check_tracker, make_tracker
from abra_wilds.engine.checks import check_method
from abra_wilds.engine.evaluation.evaluate import average_bn, plain_images, reestimate_bn, score
from abra_wilds.engine.evaluation.picks import better, check_picks, pick_epochs, picks_of
from abra_wilds.engine.evaluation.results import (
    adaptation_lines,
    conclude,
    csv_logs,
    evaluate_splits,
    save_epoch,
)
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.heads.phase import train_heads
from abra_wilds.engine.inputs import learned_rows, method_batch
from abra_wilds.engine.models.leave import leave_model
from abra_wilds.engine.parallel import no_sync_unless, parallel, process_lines
from abra_wilds.engine.precision import configure_precision, make_scaler
from abra_wilds.engine.schedule import learning_rate, make_optimizer, set_learning_rate
from abra_wilds.engine.setup import Setup, batch_lines, build_method, prepare, reading_lines
from abra_wilds.engine.step import explain_out_of_memory, share_of_step, step
from abra_wilds.engine.stop import StopRequest, stopping
from abra_wilds.results.records import Record
from abra_wilds.types import StepContext


@started()
@explain_out_of_memory()
def fit(config: RunConfig) -> list[Record]:
    """Train, evaluate after every epoch, and leave WILDS' files and ours in `log_dir`.

    Of several processes each steps on batches of its own, and rank 0 alone writes.

    Returns:
        The records of the best and the last epoch's predictions; without val no epoch is best.

    Raises:
        InputError: before training, for whatever cannot be used.
        Diverged: at a loss that is not finite; the checkpoints of earlier epochs stay.
        RunAborted: where the device's memory does not suffice; the same stay.
        Stopped: at a signal, after the step in which it came; the same stay.
    """
    with hold_folder(config), stopping() as stop:
        return train(config, stop)


def train(config: RunConfig, stop: StopRequest) -> list[Record]:
    """`fit` in a folder that is held for it, until a signal asks it to stop."""
    t, o, e, d = config.train, config.optim, config.eval, config.data
    # Refusals first: nothing of the folder changes before the data, the method and the settings fit.
    check_tracker(t.tracker)
    setup = prepare(config)
    data = described(setup.dataset, d.groupby_fields)
    trained_on = training_digest(setup.dataset, d.qc)
    device, loader = setup.device, setup.train_loader
    # The last model alone says how far a run has come; csv files may be an epoch ahead of it.
    done = common_progress(folder_of(config).model("last")) if t.resume else Progress()
    resuming = done.epoch >= 0
    method = build_method(config, setup.info, load=not resuming).to(device)
    configure_precision(method, config.speed)
    scaler = make_scaler(config.speed, device)
    # The optimiser knows the method's own parameters, so it is made before DDP wraps them.
    optimizer = make_optimizer(o, method, scaler.is_enabled())
    views, head = method.view_plan(), method.head_phase()
    check_method(config, setup, method)
    picks = picks_of(config, setup)
    check_picks(picks, done)
    folder = on_rank_zero(lambda: open_folder(config))

    if t.resume:
        check_same_run(folder, config, trained_on)
        check_last_model(folder)
        if not resuming:
            on_rank_zero(lambda: forget_first_epoch(folder))
    if resuming:
        # After the epochs over images the optimiser in the file is the classifiers', which train_heads loads.
        in_heads = done.epoch >= o.n_epochs
        moving = (None, None) if in_heads else (optimizer, scaler)
        done = load_checkpoint(folder.model("last"), method, moving[0], scaler=moving[1])
    trained = parallel(method, optimizer)
    log = TextLog(folder.path / "log.txt")
    csvs = csv_logs(setup, folder)
    # Rows of an epoch that was cut short come again.
    for csv in csvs.values():
        csv.keep_through(done.epoch)
    write_config(folder, config, data_sha256=trained_on, data=data)
    log.write("\n".join([opening(config, setup, done), *folder.sign_lines()]))

    guard = DivergenceCheck(setup.grouper.group_str)
    meter = Meter(setup.info.n_groups, device, by_group=not t.no_group_logging)
    accumulate = o.gradient_accumulation_steps
    steps_per_epoch = setup.steps_per_epoch(accumulate)
    tracker = make_tracker(t.tracker, folder.path, done.steps or (done.epoch + 1) * steps_per_epoch)
    bar = tqdm(
        total=o.n_epochs * loader.images_per_epoch,
        initial=min(done.epoch + 1, o.n_epochs) * loader.images_per_epoch,
        unit="img",
        smoothing=0.05,
        disable=no_bar(t),
    )

    for epoch in range(done.epoch + 1, o.n_epochs):
        began = time.monotonic()
        # An epoch is a function of (seed, epoch), so resuming needs no random state.
        draws, rng = seed_epoch(t.seed, epoch, rank())
        loader.set_epoch(epoch)
        method.train()
        y_pred, y_rows = [], []
        bar.set_description(f"epoch {epoch}")
        # `host` is the same batch in host memory, from which to read is not to wait for the device.
        batches = prefetched(loader, device)
        for i, (host, batch) in enumerate(batches):
            take = (i + 1) % accumulate == 0 or i + 1 == len(loader)
            share = share_of_step(o, i, len(loader))
            number = i // accumulate
            global_step = epoch * steps_per_epoch + number
            log_now = take and (number + 1) % t.log_every == 0
            lr = o.lr if method.schedule_lost else learning_rate(o, global_step, steps_per_epoch)
            set_learning_rate(optimizer, lr)
            progress = global_step / (o.n_epochs * steps_per_epoch)
            method.context = StepContext(lr, log_now or i + 1 == len(loader), epoch, progress)

            # The bio-batches of the step, for the message if its loss is not finite.
            groups = host.g[torch.stack([rows[0] for rows in host.groups])].tolist()
            learned = learned_rows(host, device)
            batch = method_batch(batch, d, views, draws, rng)
            # Gradients cross processes once a step; FLOPs are counted on an epoch's first batch.
            with no_sync_unless(trained, take), FlopCount() if i == 0 else nullcontext() as count:
                out = step(trained, batch, optimizer, share, take, o.max_grad_norm, scaler=scaler)
            if count is not None:  # an epoch's batches cost alike, image for image
                flops = count.total / len(batch) * loader.images_per_epoch

            meter.update(out, batch, learned)
            guard.note(global_step, lr, groups, out)
            if out.logits is not None:
                y_pred.append(out.logits.detach()[learned].argmax(1))
                y_rows.append(batch.rows[learned])
            bar.update(len(batch) * world())
            if log_now or i + 1 == len(loader):
                # Reading losses waits for the device, so it happens where a row of the log does.
                guard.check(folder.kept(epoch))
                meter.merge()
                row = {"epoch": epoch, "batch": number + 1, "lr": lr, **meter.read()}
                meter.reset()
                csvs["train_algo"].write(row)
                tracker.write("train", row, global_step)
                bar.set_postfix_str(f"loss {row['objective']:.3f} acc {row.get('acc_avg', math.nan):.3f}")
            stop.check(folder, epoch, together=log_now or i + 1 == len(loader))

        done = replace(
            done,
            epoch=epoch,
            flops=done.flops + flops,
            images=done.images + loader.images_per_epoch,
            steps=done.steps + steps_per_epoch,
        )
        shown = f"loss {row['objective']:.3f}"
        if y_pred:  # made while the weights were moving
            shares = all_gather((torch.cat(y_pred).cpu(), torch.cat(y_rows).cpu()))
            scores = score(setup.subsets["train"], *map(torch.cat, zip(*shares, strict=True)))
            csvs["train_eval"].write({"epoch": epoch, **scores})
            shown = f"train {scores['acc_avg']:.3f}"
        # Each process saw bio-batches of its own; running statistics become the mean of all.
        average_bn(method)
        if (remark := method.remark(row)) is not None:
            log.write(f"Epoch {epoch}: {remark}")
        if head is not None:  # nothing to evaluate before there is a classifier
            done = replace(done, seconds=done.seconds + time.monotonic() - began)
            save_epoch(config, folder, method, optimizer, done, {}, is_best=False, scaler=scaler)
            log.write(f"Epoch {epoch}: {shown}")
            continue

        # The model that is saved has these statistics too: it predicts what its predictions file says.
        if e.bn_stats == "precise":
            reestimate_bn(method, method.predict, plain_images(setup.plain_loader, device, d.size, d.plain))
        predictions, results = evaluate_splits(config, setup, method, csvs, epoch)
        # Val alone picks epochs; each adaptation of --also_tta by its own predictions of it.
        is_best = "val" in results and better(
            results["val"][e.val_metric], done.best_val_metric, e.val_metric_decreasing
        )
        if is_best:
            done = replace(done, best_val_metric=results["val"][e.val_metric], best_epoch=epoch)
        done, adapted, chosen = pick_epochs(config, setup, method, picks, done)
        done = replace(done, seconds=done.seconds + time.monotonic() - began)
        save_epoch(config, folder, method, optimizer, done, predictions, is_best, scaler=scaler, also=chosen)
        for split, found in results.items():
            tracker.write(split, found, global_step)
        accs = "  ".join(
            [f"{split} {found['acc_avg']:.3f}" for split, found in results.items()]
            + [
                f"val by {name} {value:.3f}{' (its best so far)' * (name in chosen)}"
                for name, value in adapted.items()
            ]
        )
        log.write(f"Epoch {epoch}: {shown}  {accs}{'  (best so far)' if is_best else ''}")
        stop.check(folder, epoch + 1)

    bar.close()
    if head is not None:
        done = train_heads(
            config,
            setup,
            method,
            head,
            folder=folder,
            log=log,
            csvs=csvs,
            tracker=tracker,
            done=done,
            stop=stop,
        )
    tracker.close()
    epochs = [("best", done.best_epoch), ("last", done.epoch)]
    # Other processes have nothing to write; they leave when the records are there.
    records = on_rank_zero(lambda: conclude(config, setup, method, folder, log, done, epochs))
    on_rank_zero(lambda: leave_model(config, setup, method, folder, log))
    on_rank_zero(lambda: mark_finished(folder, {name: epoch for name, (_, epoch) in done.picked.items()}))
    return records


def seed_epoch(seed: int, epoch: int, rank: int = 0) -> tuple[torch.Generator, np.random.Generator]:
    """Make everything random in an epoch a function of (seed, epoch), and of the process.

    An epoch can be run again from its start. Rank 0 draws what the only process of a run would.

    Returns:
        The generators of augmentation and of mixing; methods draw from torch's default one, seeded here too.
    """
    key = [seed, epoch, rank] if rank else [seed, epoch]
    noise, augmentation, mixing = np.random.SeedSequence(key).spawn(3)
    torch.manual_seed(int(noise.generate_state(1)[0]))
    draws = torch.Generator().manual_seed(int(augmentation.generate_state(1)[0]))
    return draws, np.random.default_rng(mixing)


def opening(config: RunConfig, setup: Setup, done: Progress) -> str:
    """The first lines of a run: what is trained on what, and the settings that are not as by default."""
    values = [
        f"  {name}: {value} ({config.origin[name]})"
        for name, value in config.values().items()
        if config.origin.get(name, "default") != "default"
    ]
    sizes = ", ".join(f"{split} {len(subset):,}" for split, subset in setup.subsets.items())
    start = f"resuming after epoch {done.epoch}" if done.epoch >= 0 else "starting"
    data = f"{config.data.dataset}{' (simulated)' if is_simulated(setup.dataset) else ''}"
    source = "files" if setup.dataset.pack is None else setup.dataset.pack.folder
    return "\n".join(
        [
            f"{config.algorithm} on {data}, {start}; one bio-batch is one {config.data.bio_batch}; "
            f"{setup.device}",
            f"images from {source}: {sizes}; {setup.train_loader.images_per_epoch:,} per epoch in "
            f"{len(setup.train_loader)} batches",
            *setup.data_lines(),
            *process_lines(setup),
            *reading_lines(config.data, setup.device),
            *batch_lines(config, setup),
            *adaptation_lines(config, setup),
            *start_lines(config.model, setup.info),
            *values,
            "  all others as by default; config.json has every one",
        ]
    )
