"""A folder with a PaddleClas inference model -> its files -> the weights of a RegNetX, and how it is fed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.errors import ModelError, short
from serving_models.graph import Shape
from serving_models.parameters import read_combined, read_scattered
from serving_models.program_files import read_program
from serving_models.recognition import recognise
from serving_models.weights import Weights

ACCEPTED = (
    "accepted is a folder or tar with one program (*.pdmodel, inference.json or __model__) and its parameters "
    "(*.pdiparams or __params__)"
)
INFERENCE_YML = "inference.yml"


@dataclass(frozen=True)
class InferenceModelFiles:
    """The files of one inference model; ``params`` is None where each parameter has its own file in ``folder``."""

    folder: Path
    program: Path
    params: Path | None

    @property
    def inference_yml(self) -> Path | None:
        """PaddleClas's description of how the model is fed, where there is one."""
        path = self.folder / INFERENCE_YML
        return path if path.is_file() else None


@dataclass(frozen=True)
class InferenceModel:
    """What an inference model holds: weights under PaddleClas's names, a declared input shape, a softmax or none."""

    files: InferenceModelFiles
    weights: Weights
    input_shape: Shape
    has_softmax: bool


def find(folder: Path) -> InferenceModelFiles:
    """The one inference model in a folder, or in the one folder within it (as tars have it).

    Raises ModelError where there is none or more than one, naming what was found.
    """
    _refuse_serving_model(folder)
    homes = [place for place in (folder, *_subfolders(folder)) if _programs(place)]
    if not homes:
        raise ModelError(f"{folder}: no program among {_listing(folder)}; {ACCEPTED}")
    programs = [program for home in homes for program in _programs(home)]
    if len(programs) > 1:
        names = ", ".join(str(program.relative_to(folder)) for program in programs)
        raise ModelError(f"{folder}: ambiguous, {len(programs)} programs: {short(names)}; {ACCEPTED}")
    return InferenceModelFiles(homes[0], programs[0], _params(homes[0], programs[0]))


def load(files: InferenceModelFiles) -> InferenceModel:
    """Read a found inference model; nothing of it is run.

    Raises ModelError where a file is damaged, or the program is not that of a RegNetX.
    """
    graph = read_program(files.program)
    program = recognise(graph, files.program)
    if files.params is None:
        arrays = read_scattered(files.folder, graph.parameters)
    else:
        arrays = read_combined(files.params, graph.parameters)
    weights = {ours: arrays[theirs] for ours, theirs in program.names.items()}
    return InferenceModel(files, weights, program.input_shape, program.has_softmax)


def _programs(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.suffix == ".pdmodel" or path.name in ("inference.json", "__model__"))
    ]


def _params(folder: Path, program: Path) -> Path | None:
    found = [path for path in sorted(folder.iterdir()) if path.suffix == ".pdiparams" or path.name == "__params__"]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{folder}: ambiguous, {len(found)} files of parameters: {short(names)}; {ACCEPTED}")
    if not found and program.name != "__model__":
        raise ModelError(f"{folder}: {short(program.name)}, but no parameters among {_listing(folder)}; {ACCEPTED}")
    return found[0] if found else None


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]


def _refuse_serving_model(folder: Path) -> None:
    # What stock's converter makes has no model.yml, and is a source like any other.
    home = folder.resolve().parent if folder.resolve().name == "serving_server" else folder
    if (home / "model.yml").is_file():
        raise ModelError(f"{folder}: a serving model already, it can be served as it is; {ACCEPTED}")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "its files (the folder is empty)"
    return ", ".join(map(short, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
