"""Made-up folders of answers of `predict --screen`, for tests of their page."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd

from abra_wilds.engine.evaluation.certificates import PlateCertificate
from abra_wilds.results.files import csv_text

WELLS = ["A01", "A02", "B03", "H12"]
SURE, UNSURE, SPREAD = (0.9, 0.3), (0.3, 1.0), (0.6, np.log(7))  # probability, entropy
SCREEN = {
    "source": "new.csv",
    "digest": "d1",
    "bio_batch": ["Metadata_Batch"],
    "plate": "Metadata_Plate",
    "well": "Metadata_Well",
    "label": "Metadata_Label",
}


def write(folder, plates=("P1", "<P2>"), *, change=None, qc=False, by_plate=False, about=None):
    """Answers of plates of four wells and two sites a well; `change` edits the wells."""
    wells = pd.DataFrame(
        [["b", plate, well, "taxol" if k else "DMSO"] for plate in plates for k, well in enumerate(WELLS)],
        columns=["Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Label"],
    )
    wells = wells.assign(Metadata_Site_Count=2, Predicted="taxol", Probability=SURE[0], Entropy=SURE[1])
    wells = wells.assign(Adaptation="eb_bn", Calibrated=True)
    sites = wells.loc[wells.index.repeat(2)].reset_index(drop=True)
    if qc:
        sites["Metadata_QC"] = ""
        sites.loc[[2, 3], "Metadata_QC"] = ["blurred; dim ER", "blurred"]  # A02 of the first plate
    if change is not None:
        change(wells)
    folder.mkdir()
    for level, table in {"wells": wells, "sites": sites}.items():
        if by_plate:
            (folder / level).mkdir()
            for k, (_, own) in enumerate(table.groupby("Metadata_Plate", sort=False)):
                own.to_parquet(folder / level / f"{k:05}_x.parquet", index=False)
        else:
            table.to_parquet(folder / f"{level}.parquet", index=False)
    said = {"model": {"name": "m.pth", "sha256": "0f", "data": "rxrx1"}, "simulated_training": False}
    said |= {"screen": SCREEN, "channels": {"DNA": "Hoechst"}, "commit": None, "scores": {}, **(about or {})}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def certify(folder, *bad):
    """Certificates of the two plates, those of some plates bad."""
    rows = [
        PlateCertificate(
            *("screen", f"b plate {plate}", 8, 0.31 if plate in bad else 0.82, 0.2, 0.9, 0.9),
            *(plate not in bad, "at most 40% are right" if plate in bad else "", 1.0, 0.1, 0.0, 0.25),
            *("do not adapt" if plate in bad else "adapt", "it gains 6"),
        )
        for plate in ("P1", "<P2>")
    ]
    (folder / "certificates.csv").write_text(csv_text([asdict(row) for row in rows]))


def doubts(wells):
    for row, (p, entropy) in {0: UNSURE, 3: SPREAD, 5: UNSURE}.items():
        wells.loc[row, ["Probability", "Entropy"]] = p, entropy
    wells.loc[0, "Predicted"] = "DMSO"
