"""Train and evaluate an algorithm on RxRx1-WILDS.

python examples/run_expt.py --dataset rxrx1 --algorithm ABRA
"""

import sys

from abra_wilds.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
