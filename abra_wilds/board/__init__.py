"""From run folders to bundles, tables, figures and reports, and the sweeps that make the runs."""
