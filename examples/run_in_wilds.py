"""Run one of our methods inside an unmodified checkout of WILDS.

    python examples/run_in_wilds.py CHECKOUT -- --dataset rxrx1 --algorithm ABRA --root_dir data

The same as `abra-wilds wilds`; from Python, see `abra_wilds.harness.register.registered`.
"""

import sys

from abra_wilds.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["wilds", *sys.argv[1:]]))
