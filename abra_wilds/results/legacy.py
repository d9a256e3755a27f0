"""What folders of version 0.1 do not say, and how it is found out all the same.

Their predictions have no config.json: settings are searched for by the digest in each record. That a run is
finished shows in a record of its last epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.evaluation import CONTROL_KINDS, CUT_TTA, GROUPED_TTA, TTA, TTA_MIN
from abra_wilds.config.run import COMMON, OWN_LOOP
from abra_wilds.config.schema import jsonable
from abra_wilds.results.records import Record

ADAPTATION = re.compile(
    rf"(?P<tta>{'|'.join(TTA[1:])})(_(?P<group>{'|'.join(TTA_GROUPS)}))?(_m(?P<prior>inf|[-+.e0-9]+))?(_b(?P<size>\d+))?"
    rf"(_min(?P<least>\d+))?(_(?P<controls>{'|'.join(CONTROL_KINDS)})_controls)?"
)


def candidates(values: Mapping[str, Any], tta: str | None) -> Iterator[dict[str, Any]]:
    """The values as they are, and as `abra-wilds predict` may have changed them."""
    yield dict(values)
    adapted = {**values, **adaptation_values(tta)}
    allowed = {name: s.flag.choices or (False, True) for name, s in COMMON.of("speed").items()}
    for speed in product(*allowed.values()):
        yield {**adapted, **dict(zip(allowed, speed, strict=True))}


def adaptation_values(tta: str | None) -> dict[str, Any]:
    """Flags that the name of an adaptation stands for (`EvalConfig.adaptation`), but those without effect.

    >>> adaptation_values("mixed_bn_experiment_m256_b64")["tta_batch_size"]
    64
    """
    if tta is None:
        return {"tta": "none"}
    found = ADAPTATION.fullmatch(tta)
    if found is None:
        return {}
    values: dict[str, Any] = {"tta": found["tta"], "tta_min": int(found["least"] or TTA_MIN)}
    if found["tta"] in GROUPED_TTA:
        values["tta_group"] = found["group"] or "plate"
    if found["tta"] in CUT_TTA:
        values["tta_batch_size"] = int(found["size"] or 0)
    if found["controls"]:
        values["tta_controls"] = found["controls"]
    if found["prior"]:
        values["tta_prior"] = jsonable(float(found["prior"]))
    return values


def adaptation_flags(tta: str) -> str:
    """The flags of `abra-wilds predict` for an adaptation by its name; "" for a name of none.

    >>> adaptation_flags("mixed_bn_experiment_m256_b64")
    '--tta mixed_bn --tta_group experiment --tta_batch_size 64'
    """
    found = adaptation_values(None if tta == "none" else tta)
    given = {n: v for n, v in found.items() if n == "tta" or v != COMMON.settings[n].default}
    return " ".join(f"--{n} {v:g}" if isinstance(v, float) else f"--{n} {v}" for n, v in given.items())


# Ends of the flags for epochs of a classifier on frozen features, which follow those over images.
HEAD_EPOCHS = ("_head_epochs", "_probe_epochs")


def n_epochs(values: Mapping[str, Any]) -> int:
    """The epochs of a run with these values, those of its classifier included."""
    return sum(int(n) for name, n in values.items() if name == "n_epochs" or name.endswith(HEAD_EPOCHS))


def broken_off(values: Mapping[str, Any], records: Sequence[Record]) -> bool:
    """Whether a run of an older version has no record of its last epoch, which training leaves at its end.

    Runs that were to leave none may pass: those that do not keep the last epoch
    or predictions, or evaluate val alone, which may be missing, and those of a WILDS checkout.

    Args:
        values: of the run's config.json.
        records: in the run's own folder.
    """
    kept = values.get("save_last", True) and values.get("save_pred", True)
    evaluated = records or values.get("evaluate_all_splits", True)
    if not (kept and evaluated) or values.get("loop", OWN_LOOP) != OWN_LOOP:
        return False
    return not any(r.checkpoint == "last" and r.epoch >= n_epochs(values) - 1 for r in records)
