"""`abra-wilds verify` as a script; see abra_wilds/commands/board/verify.py."""

import sys

from abra_wilds.commands.board.verify import main

if __name__ == "__main__":
    sys.exit(main())
