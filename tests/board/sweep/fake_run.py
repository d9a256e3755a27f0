"""A stand-in for the main command and for `abra-wilds predict`, which leaves what was made beforehand.

    fake_run.py PLAYBOOK ARGUMENTS

PLAYBOOK names, for each folder, a folder to copy and how long to wait before; and the file for the log of
starts. It imports nothing but the standard library, so that it starts at once.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path


def main():
    playbook, words = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]
    if "--log_dir" in words:
        folder = Path(words[words.index("--log_dir") + 1])
        if folder.exists() and any(folder.iterdir()) and not {"--resume", "--overwrite"} & set(words):
            sys.exit("the folder is not empty")
    else:
        folder = Path(words[0]).parent / f"tta_{words[words.index('--tta') + 1]}"
    note(playbook["log"], "start", folder)
    part = playbook["folders"][str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    if "fails" in part:
        sys.exit(f"said first\n{part['fails']}")
    from_ = Path(part["copy"])
    if (from_ / "config.json").exists():
        copy_whole(from_ / "config.json", folder / "config.json")
        (folder / f"rxrx1_seed:{folder.name.removeprefix('seed')}_epoch:last_model.pth").touch()
    time.sleep(part.get("wait", 0))
    shutil.copytree(from_, folder, dirs_exist_ok=True, copy_function=copy_whole)
    note(playbook["log"], "end", folder)


def copy_whole(source, target):
    """As the programs write: a sweep or a test that looks in between finds no half of a file."""
    temporary = f"{target}.tmp"
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def note(log, what, folder):
    with Path(log).open("a") as file:
        file.write(f"{what} {folder.parent.name}/{folder.name}\n")


if __name__ == "__main__":
    main()
