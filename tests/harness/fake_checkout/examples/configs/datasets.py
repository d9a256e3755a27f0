"""Settings that a data set implies."""

_images = {"split_scheme": "official", "transform": "rxrx1", "target_resolution": (256, 256)}
_batches = {"groupby_fields": ["experiment"], "n_groups_per_batch": 9, "batch_size": 72, "n_epochs": 90}
_network = {"model": "resnet50", "model_kwargs": {"pretrained": True}}
_objective = {"loss_function": "cross_entropy", "coral_penalty_weight": 0.1, "irm_lambda": 1.0}
_optimizer = {"optimizer": "Adam", "optimizer_kwargs": {}, "lr": 1e-3, "weight_decay": 1e-5}
_warmup = {"scheduler": "cosine_schedule_with_warmup", "scheduler_kwargs": {"num_warmup_steps": 5415}}
_score = {"val_metric": "acc_avg", "val_metric_decreasing": False, "algo_log_metric": "accuracy"}
_output = {"process_outputs_function": "multiclass_logits_to_pred"}

dataset_defaults = {
    "rxrx1": _images | _batches | _network | _objective | _optimizer | _warmup | _score | _output
}
split_defaults = {}
