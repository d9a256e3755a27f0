"""The names that flags may take."""

from wilds.common.metrics.all_metrics import Accuracy, multiclass_logits_to_pred

algorithms = ["ERM", "groupDRO", "deepCORAL", "IRM"]
models = ["resnet18", "resnet50"]
transforms = ["rxrx1"]
additional_transforms = ["randaugment", "weak"]
optimizers = ["SGD", "Adam", "AdamW"]
schedulers = ["linear_schedule_with_warmup", "cosine_schedule_with_warmup", "StepLR"]
losses = ["cross_entropy"]
algo_log_metrics = {"accuracy": Accuracy(multiclass_logits_to_pred), None: None}
process_outputs_functions = {"multiclass_logits_to_pred": multiclass_logits_to_pred, None: None}
