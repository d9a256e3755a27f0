"""Methods that learn to be adapted by batch norm."""
