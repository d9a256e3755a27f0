"""Train or evaluate one algorithm on RxRx1."""

import argparse
import os

import torch
import wilds
from algorithms.initializer import initialize_algorithm
from configs import supported
from configs.utils import populate_defaults
from PIL import ImageFile
from train import evaluate, train
from transforms import initialize_transform
from utils import (
    BatchLogger,
    Logger,
    ParseKwargs,
    get_model_prefix,
    load,
    log_config,
    log_group_data,
    parse_bool,
    set_seed,
)
from wilds.common.data_loaders import get_eval_loader, get_train_loader
from wilds.common.grouper import CombinatorialGrouper

ImageFile.LOAD_TRUNCATED_IMAGES = True


def add_data_flags(parser):
    """What is read, and in which batches."""
    parser.add_argument("-d", "--dataset", required=True, choices=wilds.supported_datasets)
    parser.add_argument("--root_dir", required=True, help="folder of rxrx1_v1.0")
    parser.add_argument("--split_scheme")
    parser.add_argument("--dataset_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--download", type=parse_bool, nargs="?", const=True, default=False)
    parser.add_argument("--frac", type=float, default=1.0, help="share of every split that is kept")
    parser.add_argument("--version", type=str)
    parser.add_argument("--unlabeled_split", type=str, choices=wilds.unlabeled_splits)
    parser.add_argument("--unlabeled_version", type=str)
    parser.add_argument("--use_unlabeled_y", type=parse_bool, nargs="?", const=True, default=False)
    parser.add_argument("--loader_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--unlabeled_loader_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--train_loader", choices=["standard", "group"])
    parser.add_argument("--uniform_over_groups", type=parse_bool, nargs="?", const=True)
    parser.add_argument("--distinct_groups", type=parse_bool, nargs="?", const=True)
    parser.add_argument("--n_groups_per_batch", type=int)
    parser.add_argument("--unlabeled_n_groups_per_batch", type=int)
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--unlabeled_batch_size", type=int)
    parser.add_argument("--eval_loader", default="standard", choices=["standard"])
    parser.add_argument("--gradient_accumulation_steps", default=1, type=int, help="batches per step")
    parser.add_argument("--transform", choices=supported.transforms)
    parser.add_argument("--additional_train_transform", choices=supported.additional_transforms)
    parser.add_argument("--target_resolution", type=int, nargs="+")
    parser.add_argument("--randaugment_n", type=int)


def add_training_flags(parser):
    """The network, its objective and how it is trained."""
    parser.add_argument("--algorithm", choices=supported.algorithms, required=True)
    parser.add_argument("--model", choices=supported.models, help="a ResNet of torchvision")
    parser.add_argument("--model_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--pretrained_model_path", type=str)
    parser.add_argument("--load_featurizer_only", type=parse_bool, nargs="?", const=True, default=False)
    parser.add_argument("--loss_function", choices=supported.losses)
    parser.add_argument("--loss_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--groupby_fields", nargs="+")
    parser.add_argument("--group_dro_step_size", type=float)
    parser.add_argument("--coral_penalty_weight", type=float)
    parser.add_argument("--irm_lambda", type=float)
    parser.add_argument("--irm_penalty_anneal_iters", type=int)
    parser.add_argument("--algo_log_metric")
    parser.add_argument("--val_metric")
    parser.add_argument("--val_metric_decreasing", type=parse_bool, nargs="?", const=True)
    parser.add_argument("--n_epochs", type=int)
    parser.add_argument("--optimizer", choices=supported.optimizers)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--weight_decay", type=float)
    parser.add_argument("--max_grad_norm", type=float)
    parser.add_argument("--optimizer_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--scheduler", choices=supported.schedulers)
    parser.add_argument("--scheduler_kwargs", action=ParseKwargs, nargs="*", default={})
    parser.add_argument("--scheduler_metric_split", default="val", choices=["train", "val"])
    parser.add_argument("--scheduler_metric_name")


def add_run_flags(parser):
    """What is evaluated, logged and kept."""
    parser.add_argument("--process_outputs_function", choices=supported.process_outputs_functions)
    parser.add_argument("--evaluate_all_splits", type=parse_bool, nargs="?", default=True, const=True)
    parser.add_argument("--eval_splits", default=[], nargs="+")
    parser.add_argument("--eval_only", type=parse_bool, nargs="?", default=False, const=True)
    parser.add_argument("--eval_epoch", type=int, help="with --eval_only; the best epoch if not given")
    parser.add_argument("--device", nargs="+", type=int, default=[0])
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--log_dir", default="./logs")
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--save_step", type=int)
    parser.add_argument("--save_best", type=parse_bool, nargs="?", default=True, const=True)
    parser.add_argument("--save_last", type=parse_bool, nargs="?", default=True, const=True)
    parser.add_argument("--save_pred", type=parse_bool, nargs="?", default=True, const=True)
    parser.add_argument("--no_group_logging", type=parse_bool, nargs="?", const=True)
    parser.add_argument("--progress_bar", type=parse_bool, nargs="?", default=False, const=True)
    parser.add_argument("--resume", type=parse_bool, nargs="?", default=False, const=True)
    parser.add_argument("--use_wandb", type=parse_bool, nargs="?", default=False, const=True)
    parser.add_argument("--wandb_api_key_path", type=str)
    parser.add_argument("--wandb_kwargs", action=ParseKwargs, nargs="*", default={})


def choose_device(config):
    """Turn the list of device numbers into a torch.device."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and len(config.device) > torch.cuda.device_count():
        raise ValueError(f"{len(config.device)} devices asked for, {torch.cuda.device_count()} found")
    config.use_data_parallel = on_gpu and len(config.device) > 1
    if on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in config.device)
    config.device = torch.device("cuda" if on_gpu else "cpu")


def make_split(split, config, full_dataset, grouper, mode):
    """All that train and evaluate need to know of one split."""
    training = split == "train"
    chosen = {"transform_name": config.transform, "config": config, "dataset": full_dataset}
    chosen["additional_transform_name"] = config.additional_train_transform if training else None
    transform = initialize_transform(**chosen, is_training=training)
    subset = full_dataset.get_subset(split, frac=config.frac, transform=transform)
    shared = {"dataset": subset, "grouper": grouper, "batch_size": config.batch_size, **config.loader_kwargs}
    if training:
        names = ("uniform_over_groups", "distinct_groups", "n_groups_per_batch")
        groups = {name: getattr(config, name) for name in names}
        loader = get_train_loader(loader=config.train_loader, **groups, **shared)
    else:
        loader = get_eval_loader(loader=config.eval_loader, **shared)
    found = {"dataset": subset, "loader": loader, "split": split, "verbose": split in ("train", "val")}
    found["name"] = full_dataset.split_names[split]
    for kind in ("eval", "algo"):
        path = os.path.join(config.log_dir, f"{split}_{kind}.csv")
        found[f"{kind}_logger"] = BatchLogger(path, mode=mode, use_wandb=config.use_wandb)
    return found


def restore(algorithm, prefix, config, logger):
    """(first epoch, best validation metric) after loading the last checkpoint; (0, None) without one."""
    path = prefix + "epoch:last_model.pth"
    if not os.path.exists(path):
        return 0, None
    epoch, best_val_metric = load(algorithm, path, device=config.device)
    logger.write(f"Continuing at epoch {epoch + 1}; best validation metric {best_val_metric}\n")
    return epoch + 1, best_val_metric


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    for add in (add_data_flags, add_training_flags, add_run_flags):
        add(parser)
    config = populate_defaults(parser.parse_args())
    if config.use_wandb or config.unlabeled_split:
        raise ValueError("neither Weights & Biases nor unlabeled data in the stand-in")
    choose_device(config)
    known = os.path.exists(config.log_dir)
    mode = "a" if known and (config.resume or config.eval_only) else "w"
    os.makedirs(config.log_dir, exist_ok=True)
    logger = Logger(f"{config.log_dir}/log.txt", mode)
    log_config(config, logger)
    set_seed(config.seed)

    names = ("dataset", "version", "root_dir", "download", "split_scheme")
    full_dataset = wilds.get_dataset(**{n: getattr(config, n) for n in names}, **config.dataset_kwargs)
    train_grouper = CombinatorialGrouper(dataset=full_dataset, groupby_fields=config.groupby_fields)
    splits = list(full_dataset.split_dict)
    datasets = {split: make_split(split, config, full_dataset, train_grouper, mode) for split in splits}
    log_group_data(datasets, None if config.no_group_logging else train_grouper, logger)
    wanted = {"config": config, "datasets": datasets, "train_grouper": train_grouper}
    algorithm = initialize_algorithm(**wanted, unlabeled_dataset=None)

    prefix = get_model_prefix(datasets["train"], config)
    task = {"algorithm": algorithm, "datasets": datasets, "general_logger": logger, "config": config}
    if config.eval_only:
        asked = "best" if config.eval_epoch is None else config.eval_epoch
        stored, _ = load(algorithm, f"{prefix}epoch:{asked}_model.pth", device=config.device)
        epoch = stored if asked == "best" else asked
        evaluate(**task, epoch=epoch, is_best=epoch == stored)
    else:
        resumed = known and config.resume
        epoch, best_val_metric = restore(algorithm, prefix, config, logger) if resumed else (0, None)
        train(**task, epoch_offset=epoch, best_val_metric=best_val_metric, unlabeled_dataset=None)

    logger.close()
    for kind in ("eval_logger", "algo_logger"):
        for dataset in datasets.values():
            dataset[kind].close()


if __name__ == "__main__":
    main()
