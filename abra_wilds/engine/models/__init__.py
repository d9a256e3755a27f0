"""Models that stand by themselves: a folder that other tools read, opened without the data of training."""
