"""Scores of three seeds' predictions: python examples/evaluate.py PREDICTIONS OUTPUT --dataset rxrx1."""

import argparse
import json
import os
from ast import literal_eval

import numpy as np
import torch
from wilds import benchmark_datasets, get_dataset

METRICS = {"rxrx1": ["acc_avg"]}


def get_predictions(path):
    """The rows of a file of predictions."""
    with open(path) as file:
        return torch.tensor([literal_eval(line) for line in map(str.strip, file) if line])


def prediction_file(folder, start):
    """The first file whose name begins so, in the order of the directory, be it best or last."""
    names = (name for name in os.listdir(folder) if name.startswith(start) and name.endswith(".csv"))
    found = next(names, None)
    if found is None:
        raise FileNotFoundError(f"{folder} has no csv file that begins with {start}")
    return os.path.join(folder, found)


def evaluate_replicate(dataset, split, predicted_labels):
    """The metrics of one seed on one split."""
    subset = dataset.get_subset(split)
    y_true = subset.y_array
    y_pred = predicted_labels if predicted_labels.shape == y_true.shape else predicted_labels.unsqueeze(-1)
    return dataset.eval(y_pred, y_true, subset.metadata_array)[0]


def evaluate_benchmark(dataset_name, predictions_dir, output_dir, root_dir):
    """Mean and standard deviation over three seeds, for every split but the training split."""
    dataset = get_dataset(dataset=dataset_name, root_dir=root_dir, download=True)
    summary = {}
    for split in [name for name in dataset.split_dict if name != "train"]:
        starts = [f"{dataset_name}_split:{split}_seed:{seed}" for seed in range(3)]
        files = [prediction_file(predictions_dir, start) for start in starts]
        scores = [evaluate_replicate(dataset, split, get_predictions(path)) for path in files]
        summary[split] = {}
        for metric in METRICS[dataset_name]:
            values = [score[metric] for score in scores]
            summary[split] |= {f"{metric}_std": np.std(values, ddof=1), metric: np.mean(values)}
    with open(os.path.join(output_dir, f"{dataset_name}_results.json"), "w") as file:
        json.dump(summary, file, indent=4)
    return summary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions_dir")
    parser.add_argument("output_dir")
    parser.add_argument("--dataset", choices=benchmark_datasets, required=True)
    parser.add_argument("--root_dir", default="data")
    args = parser.parse_args()
    evaluate_benchmark(args.dataset, args.predictions_dir, args.output_dir, args.root_dir)
