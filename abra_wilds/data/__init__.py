"""From files to batches: WILDS data sets, samplers, loaders, augmentation, mixing, simulation."""
