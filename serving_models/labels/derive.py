"""timm's WordNet data files -> imagenet1k.txt: the lemmas of each ImageNet-1k class, in class order.

python serving_models/labels/derive.py .../timm/data/_info > serving_models/labels/imagenet1k.txt
"""

from __future__ import annotations

import sys
from pathlib import Path


def derive(info: Path) -> list[str]:
    """``tench, Tinca tinca`` and so on: the lemmas of the 1000 synsets, in the order of their ids."""
    rows = (info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(row.split("\t", 1) for row in rows)
    synsets = (info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [lemmas[synset] for synset in synsets]


if __name__ == "__main__":
    print("\n".join(derive(Path(sys.argv[1]))))
