"""Loggers, seeds, files and containers of tensors."""

import argparse
import csv
import os
import random
import sys

import numpy as np
import pandas as pd
import torch


class ParseKwargs(argparse.Action):
    """`a=1 b=x` as a dictionary; numbers without an exponent and booleans are recognised."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = [item.split("=") for item in values]
        setattr(namespace, self.dest, {name: self.value(text) for name, text in pairs})

    @staticmethod
    def value(text):
        digits = text.replace("-", "")
        if digits.isnumeric():
            return int(text)
        if digits.replace(".", "").isnumeric():
            return float(text)
        return {"True": True, "true": True, "False": False, "false": False}.get(text, text)


def parse_bool(v):
    """True or false, in any case of letters."""
    if v.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{v} is neither true nor false")
    return v.lower() == "true"


def update_average(prev_avg, prev_counts, curr_avg, curr_counts):
    """The mean over both shares; 0 where there is nothing to average."""
    total = prev_counts + curr_counts
    if torch.is_tensor(total):
        total = torch.where(total == 0, 1.0, total)
    elif total == 0:
        return 0.0
    return prev_counts / total * prev_avg + curr_counts / total * curr_avg


class Logger:
    """Writes to a file and to what was stdout when it was made; close() closes both."""

    def __init__(self, fpath=None, mode="w"):
        self.console, self.file = sys.stdout, None
        if fpath is not None:
            self.file = open(fpath, mode)  # noqa: SIM115

    def __del__(self):
        self.close()

    def each(self, action, *given):
        for output in (self.console, self.file):
            if output is not None:
                getattr(output, action)(*given)

    def write(self, msg):
        self.each("write", msg)

    def flush(self):
        self.each("flush")

    def close(self):
        self.each("close")


class BatchLogger:
    """A csv file whose columns are the keys of its first row, epoch and batch in front."""

    def __init__(self, csv_path, mode="w", use_wandb=False):
        self.path, self.mode, self.use_wandb = csv_path, mode, use_wandb
        self.file = open(csv_path, mode)  # noqa: SIM115
        self.writer = None

    def log(self, log_dict):
        if self.writer is None:
            front = [name for name in ("epoch", "batch") if name in log_dict]
            columns = front + [name for name in log_dict if name not in front]
            self.writer = csv.DictWriter(self.file, columns)
            if self.mode == "w" or os.path.getsize(self.path) == 0:
                self.writer.writeheader()
        self.writer.writerow(log_dict)
        self.flush()

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def set_seed(seed):
    """Seed torch, NumPy and Python, and ask cuDNN for the same results each time."""
    for start in (torch.manual_seed, np.random.seed, random.seed):
        start(seed)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


def log_config(config, logger):
    """One line for each setting."""
    lines = [f"{name.replace('_', ' ').capitalize()}: {setting}" for name, setting in vars(config).items()]
    logger.write("\n".join([*lines, "", ""]))


def log_group_data(datasets, grouper, logger):
    """The size of every split, by group if there is a grouper."""
    for dataset in datasets.values():
        metadata = dataset["dataset"].metadata_array
        counts = {"all": len(metadata)}
        if grouper is not None:
            _, sizes = grouper.metadata_to_group(metadata, return_counts=True)
            counts = {grouper.group_str(group): int(n) for group, n in enumerate(sizes.tolist())}
        lines = [f"{dataset['name']}:"] + [f"    {group}: {n} images" for group, n in counts.items()]
        logger.write("\n".join([*lines, ""]))
    logger.flush()


def save_model(algorithm, epoch, best_val_metric, path):
    """A checkpoint: state dict, epoch and best validation metric, but no state of the optimiser."""
    parts = {"algorithm": algorithm.state_dict(), "epoch": epoch, "best_val_metric": best_val_metric}
    torch.save(parts, path)


def load(module, path, device=None, tries=2):
    """Fill a module from a file; where keys do not fit, rename and leave out the rest without an error.

    Returns (epoch, best validation metric), or (None, None) for bare weights.
    """
    file = torch.load(path, map_location=device)
    weights, wanted = file.get("algorithm", file), list(module.state_dict())
    try:
        module.load_state_dict(weights)
    except Exception:
        while weights and wanted and tries:
            weights, tries = match_keys(weights, wanted), tries - 1
            module.load_state_dict(weights, strict=False)
            lacking = [key for key in wanted if key not in weights]
            weights, wanted = {key: weights[key] for key in weights if key not in wanted}, lacking
        print(f"Not found in {path}: {wanted}")
    return file.get("epoch"), file.get("best_val_metric")


def match_keys(d, ref):
    """Exchange the prefix of d's first key for those of the keys of ref that end alike.

    Raises an error if there are none, and also if nothing needed renaming, as the original does.
    """
    parts = next(iter(d)).split(".")
    for cut in range(len(parts)):
        old, tail = "".join(part + "." for part in parts[:cut]), ".".join(parts[cut:])
        new = [key.removesuffix(tail) for key in ref if key.endswith(tail) and "layer" not in key]
        if new and cut:
            return {prefix + key.removeprefix(old): d[key] for prefix in new for key in d}
        if new:
            break
    raise Exception(f"no key of the module looks like {'.'.join(parts)}")


def save_pred(y_pred, path_prefix):
    """Predictions as csv without a header."""
    if not torch.is_tensor(y_pred):
        raise TypeError(f"predictions must be a tensor, not {type(y_pred).__name__}")
    pd.DataFrame(y_pred.numpy()).to_csv(f"{path_prefix}.csv", header=False, index=False)


def get_pred_prefix(dataset, config):
    """Beginning of the path of a split's predictions."""
    name = f"{dataset['dataset'].dataset_name}_split:{dataset['split']}_seed:{config.seed}_"
    return os.path.join(config.log_dir, name)


def get_model_prefix(dataset, config):
    """Beginning of the path of a checkpoint."""
    return os.path.join(config.log_dir, f"{dataset['dataset'].dataset_name}_seed:{config.seed}_")


def spread(function, obj):
    """A function of tensors, applied to all tensors in dictionaries and lists; numbers stay."""
    if isinstance(obj, dict):
        return {key: spread(function, value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [spread(function, value) for value in obj]
    return obj if isinstance(obj, (int, float)) else function(obj)


def move_to(obj, device):
    """Tensors on a device."""
    return spread(lambda value: value.to(device), obj)


def detach_and_clone(obj):
    """Copies of tensors without their history."""
    if not isinstance(obj, (torch.Tensor, dict, list, int, float)):
        raise TypeError(f"neither tensor nor number: {type(obj).__name__}")
    return spread(lambda value: value.detach().clone(), obj)


def collate_list(vec):
    """Batches of an epoch as one tensor."""
    return torch.cat(vec)
