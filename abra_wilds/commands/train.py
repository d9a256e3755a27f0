"""`abra-wilds train`, and `examples/run_expt.py`: train and evaluate one method."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from abra_wilds.dist import is_main, started
from abra_wilds.recipes.flags import parse
from abra_wilds.terminal import RESUMING, exit_cleanly


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    @started()
    def body() -> int:
        config = parse(sys.argv[1:] if argv is None else argv)
        from abra_wilds.engine.dry_run import dry_run
        from abra_wilds.engine.evaluation.results import evaluate_saved
        from abra_wilds.engine.fit import fit

        if config.train.dry_run:
            report = dry_run(config)
            if is_main():
                print(report)
        elif config.eval.eval_only:
            evaluate_saved(config)
        else:
            fit(config)
        return 0

    return exit_cleanly(body, RESUMING)


if __name__ == "__main__":
    sys.exit(main())
