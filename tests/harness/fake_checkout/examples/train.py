"""Epochs of training and evaluation, whatever the algorithm."""

import math

import torch
from configs.supported import process_outputs_functions
from tqdm import tqdm
from utils import collate_list, detach_and_clone, get_model_prefix, get_pred_prefix, save_model, save_pred

NAMES = ("y_pred", "y_true", "metadata")


def keep(kept, batch_results, config):
    """Append outputs, labels and metadata of a batch to three lists."""
    process = process_outputs_functions[config.process_outputs_function]
    outputs, y_true, metadata = (detach_and_clone(batch_results[name]) for name in NAMES)
    for values, value in zip(kept, (process(outputs) if process else outputs, y_true, metadata), strict=True):
        values.append(value)


def score(kept, dataset):
    """(results, their description, predictions) of a whole split."""
    y_pred, y_true, metadata = map(collate_list, kept)
    return *dataset["dataset"].eval(y_pred, y_true, metadata), y_pred


def run_epoch(algorithm, dataset, general_logger, epoch, config, train, unlabeled_dataset=None):
    """One pass over a split, with updates or without; returns (results, predictions)."""
    assert not unlabeled_dataset, "the stand-in has no unlabeled data"
    if dataset["verbose"]:
        general_logger.write(f"\n[{dataset['name']}]\n")
    algorithm.train() if train else algorithm.eval()
    torch.set_grad_enabled(train)

    loader, kept, done = dataset["loader"], ([], [], []), 0
    for number, batch in enumerate(tqdm(loader) if config.progress_bar else loader, start=1):
        last = number == len(loader)
        keep(kept, algorithm.update(batch, is_epoch_end=last) if train else algorithm.evaluate(batch), config)
        done = number / config.gradient_accumulation_steps if train else number
        if train and done % config.log_every == 0:
            log_results(algorithm, dataset, general_logger, epoch, math.ceil(done))

    results, summary, y_pred = score(kept, dataset)
    if dataset["split"] == config.scheduler_metric_split:
        algorithm.step_schedulers(is_epoch=True, metrics=results, log_access=not train)
    log_results(algorithm, dataset, general_logger, epoch, math.ceil(done))
    results["epoch"] = epoch
    log_split = dataset["eval_logger"].log
    log_split(results)
    if dataset["verbose"]:
        general_logger.write(f"Whole epoch:\n{summary}")
    return results, y_pred


def train(algorithm, datasets, general_logger, config, epoch_offset, best_val_metric, unlabeled_dataset=None):
    """Epochs of training, each followed by validation, checkpoints and the other splits."""
    others = [split for split in datasets if split not in ("train", "val")]
    others = others if config.evaluate_all_splits else config.eval_splits
    epochs = range(epoch_offset, config.n_epochs)
    for epoch in epochs:
        general_logger.write(f"\n--- epoch {epoch} ---\n")
        now = {"general_logger": general_logger, "epoch": epoch, "config": config}
        run_epoch(algorithm, datasets["train"], **now, train=True, unlabeled_dataset=unlabeled_dataset)
        val_results, y_pred = run_epoch(algorithm, datasets["val"], **now, train=False)

        current = val_results[config.val_metric]
        sign = -1 if config.val_metric_decreasing else 1
        is_best = best_val_metric is None or sign * current > sign * best_val_metric
        best_val_metric = current if is_best else best_val_metric
        note = " (best so far)" if is_best else ""
        general_logger.write(f"{config.val_metric} in validation: {current:.3f}{note}\n")
        so_far = {"epoch": epoch, "config": config, "is_best": is_best}
        save_model_if_needed(algorithm, datasets["val"], best_val_metric=best_val_metric, **so_far)
        save_pred_if_needed(y_pred, datasets["val"], **so_far)
        for split in others:
            _, y_pred = run_epoch(algorithm, datasets[split], **now, train=False)
            save_pred_if_needed(y_pred, datasets[split], **so_far)


def evaluate(algorithm, datasets, epoch, general_logger, config, is_best):
    """Every split once, the training split too, whose shuffled predictions are not kept."""
    algorithm.eval()
    torch.set_grad_enabled(False)
    for split in [name for name in datasets if config.evaluate_all_splits or name in config.eval_splits]:
        dataset, kept = datasets[split], ([], [], [])
        for batch in tqdm(dataset["loader"]) if config.progress_bar else dataset["loader"]:
            keep(kept, algorithm.evaluate(batch), config)
        results, summary, y_pred = score(kept, dataset)
        log_split = dataset["eval_logger"].log
        log_split(results | {"epoch": epoch})
        general_logger.write(f"{split}, epoch {epoch}:\n{summary}")
        if split != "train":
            save_pred_if_needed(y_pred, dataset, epoch, config, is_best, force_save=True)


def log_results(algorithm, dataset, general_logger, epoch, effective_batch_idx):
    """Write the algorithm's log of the last batches, if it has one, and start it afresh."""
    if not algorithm.has_log:
        return
    dataset["algo_logger"].log({**algorithm.get_log(), "epoch": epoch, "batch": effective_batch_idx})
    if dataset["verbose"]:
        text = algorithm.get_pretty_log_str()
        general_logger.write(text)
    algorithm.reset_log()


def due(epoch, config):
    """Whether --save_step asks for files of this epoch."""
    return config.save_step is not None and (epoch + 1) % config.save_step == 0


def save_pred_if_needed(y_pred, dataset, epoch, config, is_best, force_save=False):
    """Write predictions under the names of this epoch, `last` and `best`, as the flags ask."""
    wanted = {epoch: force_save or due(epoch, config)}
    wanted |= {"last": config.save_last and not force_save, "best": config.save_best and is_best}
    for name in [name for name, asked in wanted.items() if asked and config.save_pred]:
        save_pred(y_pred, get_pred_prefix(dataset, config) + f"epoch:{name}_pred")


def save_model_if_needed(algorithm, dataset, epoch, config, is_best, best_val_metric):
    """Write a checkpoint under the names of this epoch, `last` and `best`, as the flags ask."""
    wanted = {epoch: due(epoch, config), "last": config.save_last, "best": config.save_best and is_best}
    for name in [name for name, asked in wanted.items() if asked]:
        path = get_model_prefix(dataset, config) + f"epoch:{name}_model.pth"
        save_model(algorithm, epoch, best_val_metric, path)
