"""All runs of a table: rows times seeds, on one machine or on Slurm."""
