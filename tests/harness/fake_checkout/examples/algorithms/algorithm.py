"""What every algorithm has: a mode, a device and a log."""

from torch import nn
from utils import detach_and_clone, move_to


class Algorithm(nn.Module):
    """Subclasses add update, evaluate, get_log, get_pretty_log_str and step_schedulers."""

    def __init__(self, device):
        super().__init__()
        self.device, self.out_device = device, "cpu"
        self.reset_log()

    def train(self, mode=True):
        """Change the mode; the log starts afresh."""
        super().train(mode)
        self.is_training = mode
        self.reset_log()

    @property
    def has_log(self):
        return self._has_log

    def reset_log(self):
        self.log_dict, self._has_log = {}, False

    def sanitize_dict(self, in_dict, to_out_device=True):
        """A copy without gradients, on the CPU if asked."""
        copied = detach_and_clone(in_dict)
        return move_to(copied, self.out_device) if to_out_device else copied
