"""Write data/imagenet_classes.txt: python scripts/imagenet_classes.py DATA_NOUN IDS.

DATA_NOUN is `data.noun` of WordNet 3.0 (in Debian's package `wordnet-base`); IDS is a file of the 1,000
synset ids of ILSVRC 2012, one a line, for example the names of the training set's folders.
"""

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src" / "residual" / "data" / "imagenet_classes.txt"
HEADER = """\
The 1,000 classes of ILSVRC 2012 in the order of their numbers: synset id, tab, names.
An id is "n" and the synset's offset in WordNet 3.0's data.noun; the names are its lemmas, a modified
extract of the WordNet database (https://wordnet.princeton.edu), under its licence:
"""


def lemmas(line: str) -> str:
    """Return the names in a line of `data.noun`: offset, file, type, count in hex, lemma, id, lemma, ..."""
    fields = line.split(" ")
    return ", ".join(fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16)))


def licence(lines: list[str]) -> str:
    """Return the licence at the top of `data.noun`, where each line has its number."""
    return "\n".join(line.strip().partition(" ")[2].strip() for line in lines if line.startswith("  "))


def main(data_noun: str, ids: str) -> None:
    """Write the file."""
    lines = Path(data_noun).read_text(encoding="utf-8").splitlines()
    names = {f"n{line[:8]}": lemmas(line) for line in lines if not line.startswith("  ")}
    synsets = sorted(set(Path(ids).read_text(encoding="utf-8").split()))
    if len(synsets) != 1000:
        sys.exit(f"{ids} has {len(synsets)} different ids, not 1,000")
    header = "".join(f"# {line}".rstrip() + "\n" for line in (HEADER + "\n" + licence(lines)).splitlines())
    rows = "".join(f"{synset}\t{names[synset]}\n" for synset in synsets)
    TARGET.write_text(header + rows, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
