"""`abra-wilds sweep` as a script; see abra_wilds/commands/board/sweep.py."""

import sys

from abra_wilds.commands.board.sweep import main

if __name__ == "__main__":
    sys.exit(main())
