"""Logs by group, and the schedulers."""

import torch
from algorithms.algorithm import Algorithm
from scheduler import step_scheduler
from utils import update_average
from wilds.common.utils import numel

PREFIX = "group_"  # of what has one value for each group


class GroupAlgorithm(Algorithm):
    """Keeps running means of losses, metrics and logged fields since the last reset."""

    def __init__(
        self,
        device,
        grouper,
        logged_metrics,
        logged_fields,
        schedulers,
        scheduler_metric_names,
        no_group_logging,
        **kwargs,
    ):
        super().__init__(device)
        self.group_prefix, self.count_field, self.group_count_field = PREFIX, "count", PREFIX + "count"
        self.grouper, self.no_group_logging = grouper, no_group_logging
        self.logged_metrics, self.logged_fields = logged_metrics, logged_fields
        self.schedulers, self.scheduler_metric_names = schedulers, scheduler_metric_names

    def update_log(self, results):
        """Let a batch's results enter the means."""
        missing = [field for field in self.logged_fields if field not in results]
        assert not missing, f"results lack {missing}"
        fresh, group_counts = self.batch_log(self.sanitize_dict(results, to_out_device=False))
        counts = {self.count_field: numel(results["y_true"])}
        if not self.no_group_logging:
            counts = {self.group_count_field: group_counts, **counts}
        log = self.log_dict
        if self._has_log:
            for key, value in fresh.items():
                by = self.group_count_field if key.startswith(PREFIX) else self.count_field
                fresh[key] = update_average(log[key], log[by], value, counts[by])
            counts = {key: log[key] + count for key, count in counts.items()}
        self.log_dict, self._has_log = {**fresh, **counts}, True

    @torch.no_grad()
    def batch_log(self, results):
        """(one batch's losses, metrics and fields, images per group)."""
        fresh, group_counts, n_groups = {}, None, self.grouper.n_groups
        y = results["y_pred"], results["y_true"]
        for kind in self.logged_metrics:
            if not self.no_group_logging:
                triple = kind.compute_group_wise(*y, results["g"], n_groups, return_dict=False)
                fresh[PREFIX + kind.name], group_counts, _ = triple
            fresh[kind.agg_metric_field] = kind.compute(*y, return_dict=False).item()
        for name in self.logged_fields:
            value, by_group = results[name], name.startswith(PREFIX)
            if torch.is_tensor(value) and value.numel() == 1:
                value = value.item()
            elif torch.is_tensor(value):
                assert by_group and value.numel() == n_groups, f"{name} has a wrong size"
            if not (by_group and self.no_group_logging):
                fresh[name] = value
        return fresh, group_counts

    def get_log(self):
        """The means as numbers; not a number for groups without images."""
        names = {metric.name: metric.group_metric_field for metric in self.logged_metrics}
        names[self.count_field] = self.loss.group_count_field
        flat = {}
        for key, value in self.log_dict.items():
            if not key.startswith(PREFIX):
                flat[key] = value
                continue
            field = key.removeprefix(PREFIX)
            for g, count in enumerate(self.log_dict[self.group_count_field]):
                name = names[field](g) if field in names else f"{field}_group:{g}"
                empty = field != self.count_field and count == 0
                flat[name] = float("nan") if empty else value[g].item()
        return flat

    def get_pretty_log_str(self):
        """The log for people."""
        log = self.get_log()
        fields = [field for field in self.logged_fields if not field.startswith(PREFIX)]
        fields += [metric.agg_metric_field for metric in self.logged_metrics]
        lines = [f"{field}: {log[field]:.3f}" for field in fields]
        for g in range(0 if self.no_group_logging else self.grouper.n_groups):
            n = log[self.loss.group_count_field(g)]
            if n > 0:
                columns = [f.removeprefix(PREFIX) for f in self.logged_fields if f.startswith(PREFIX)]
                named = {column: f"{column}_group:{g}" for column in columns}
                named |= {metric.name: metric.group_metric_field(g) for metric in self.logged_metrics}
                row = [f"  {self.grouper.group_str(g)}  [n = {n:6.0f}]:"]
                lines.append("\t".join(row + [f"{name}: {log[key]:5.3f}" for name, key in named.items()]))
        return "\n".join([*lines, ""])

    def step_schedulers(self, is_epoch, metrics={}, log_access=False):  # noqa: B006
        """Step those schedulers whose time has come: a batch's end, or an epoch's."""
        for one, metric_name in zip(self.schedulers, self.scheduler_metric_names, strict=False):
            if one is None or one.step_every_batch == is_epoch:
                continue
            metric = None
            if one.use_metric and metric_name is not None:
                metric = {**(self.get_log() if log_access else {}), **metrics}[metric_name]
            step_scheduler(one, metric)
