"""Methods that perturb feature statistics or images in training."""
