"""The layouts as a small drawing, for a source with nothing usable."""

from .listing import Listing

LAYOUTS = (
    ("CASE/scan.png  CASE/mask1.png  CASE/mask2.png", "a folder per case"),
    ("ID.png  ID_expert1.png  ID_expert2.png", "masks beside images; also ID_1stHO.png"),
    ("ID.png  ID_seg_disc_1.png  ID_seg_cup_1.png", "of several structures: --structure disc"),
    ("images/ID.png  masks/ID.png", "one rater"),
    ("images/ID.png  masks/ID_expert1.png", ""),
    ("images/ID.png  masks/expert1/ID.png", ""),
    ("images/ID.png  expert1/ID.png", "also 1st_manual/ID_manual1.gif"),
    ("imagesTr/ID_0000.nii.gz  labelsTr/ID.nii.gz", "nnU-Net; several raters: labelsTr_expert1/"),
)
WIDTH = 1 + max(len(files) for files, _ in LAYOUTS)


def nothing_usable(listing: Listing, reason: str = "") -> str:
    """The message for a source without a case: why, the layouts, and what the source contains."""
    if not listing.pictures and not listing.others:
        return f"{listing.src}: no case found in the format folders: the folder contains no files"
    contents = list(listing.passed_over(()))
    return "\n".join(
        [
            f"{listing.src}: no case found in the format folders{reason}",
            *(f"  {line.replace('passed over', 'found', 1)}" for line in contents),
            "The layouts are as follows; training/, validation/ and testing/ in a path give the split:",
            *(f"  {files.ljust(WIDTH)} {remark}".rstrip() for files, remark in LAYOUTS),
            "Any other: --images and --masks, e.g. --images 'scans/{case}.*' --masks 'outlines/{rater}/{case}.*'",
        ]
    )
