"""Names of class folders -> classes, by one of three readings; what is not sure is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving_models.class_labels import IMAGENET_LABELS, read_labels

SYNSETS = Path(__file__).parent / "labels" / "imagenet1k_synsets.txt"

Reading = Callable[[str], list[int]]  # the classes that a name may mean


def classes_of(folders: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """The class of each folder. All are labels of the model, or all numbers of classes, or all WordNet ids.

    Raises ValueError, with a sentence for a person, where no reading fits all folders, where two fit and differ, and
    where a folder may be several classes or several folders are one class.
    """
    readings = _readings(labels)
    fitting = [what for what, reading in readings.items() if all(map(reading, folders))]
    if not fitting:
        raise ValueError(_misfit(folders, readings))
    found = {what: {folder: _only(folder, readings[what](folder)) for folder in folders} for what in fitting}
    first, *others = found.items()
    for what, classes in others:
        _refuse_difference(first, (what, classes))
    _refuse_shared(first[1])
    return first[1]


def _readings(labels: Sequence[str]) -> dict[str, Reading]:
    of_label: dict[str, list[int]] = {}
    for class_id, label in enumerate(labels):
        of_label.setdefault(label, []).append(class_id)
    readings: dict[str, Reading] = {
        f"a label of the model ({labels[0]} … {labels[-1]})": lambda name: of_label.get(name, []),
        f"the number of a class (0 to {len(labels) - 1})": lambda name: _number(name, len(labels)),
    }
    if tuple(labels) == read_labels(IMAGENET_LABELS):
        of_synset = {synset: class_id for class_id, synset in enumerate(SYNSETS.read_text().split())}
        readings["a WordNet id of ImageNet-1k (n01440764 …)"] = lambda name: (
            [of_synset[name]] if name in of_synset else []
        )
    return readings


def _number(name: str, classes: int) -> list[int]:
    fits = name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < classes
    return [int(name)] if fits else []


def _only(folder: str, classes: list[int]) -> int:
    if len(classes) > 1:
        raise ValueError(
            f"the class folder {folder!r} may be class {' or '.join(map(str, classes))}, which have the same label;"
            " accepted is one number of a class for each folder"
        )
    return classes[0]


def _misfit(folders: Sequence[str], readings: Mapping[str, Reading]) -> str:
    """By the reading that fits most folders: which one it does not fit."""
    accepted = f"accepted are folders of which each is {', or each '.join(readings)}"
    counts = {what: sum(map(bool, map(reading, folders))) for what, reading in readings.items()}
    what = max(counts, key=lambda name: counts[name])
    odd = next(folder for folder in folders if not readings[what](folder))
    if not counts[what]:
        return f"the class folder {odd!r} is no class of the model; {accepted}"
    others = f"{counts[what]} of {len(folders)} class folders"
    return f"the class folder {odd!r} is not {what}, as {others} are; {accepted}"


def _refuse_difference(one: tuple[str, dict[str, int]], other: tuple[str, dict[str, int]]) -> None:
    (what, classes), (also, others) = one, other
    for folder, class_id in classes.items():
        if others[folder] != class_id:
            raise ValueError(
                f"the class folder {folder!r} is {what}, that of class {class_id}, and also {also}, {others[folder]}"
                ": not sure; accepted are folders whose names can be read in one way"
            )


def _refuse_shared(classes: Mapping[str, int]) -> None:
    folder_of: dict[int, str] = {}
    for folder, class_id in classes.items():
        if class_id in folder_of:
            raise ValueError(f"the class folders {folder_of[class_id]!r} and {folder!r} are both class {class_id}")
        folder_of[class_id] = folder
