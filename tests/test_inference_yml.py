"""What of PaddleClas's inference.yml is understood, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ModelError
from serving_models.inference_yml import Feeding, read_inference_yml

PREPROCESS = "PreProcess: {transform_ops: [%s]}"


def feeding(tmp_path: Path, text: str) -> Feeding:
    (tmp_path / "inference.yml").write_text(text, encoding="utf-8")
    return read_inference_yml(tmp_path / "inference.yml")


def test_a_whole_file_as_paddleclas_writes_it(tmp_path: Path) -> None:
    found = feeding(
        tmp_path,
        """\
Global: {model_name: RegNetX_4GF}
Hpi: {backend_config: {}}
PreProcess:
  transform_ops:
  - ResizeImage: {resize_short: 256}
  - CropImage: {size: 224}
  - NormalizeImage: {channel_num: 3, mean: [0.1, 0.2, 0.3], order: '', scale: 0.00392156862745098, std: [1, 2, 3]}
  - ToCHWImage: null
PostProcess:
  Topk:
    topk: 5
    label_list: ["tench, Tinca tinca", 7]
""",
    )

    assert found == Feeding(
        crop=(224, 224),
        resize_short=256,
        scale=1 / 255,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 2.0, 3.0),
        labels=("tench, Tinca tinca", "7"),
    )


def test_what_a_file_leaves_open_stays_open(tmp_path: Path) -> None:
    assert feeding(tmp_path, "Global: {model_name: x}") == Feeding()


def test_a_scale_may_be_a_quotient(tmp_path: Path) -> None:
    assert feeding(tmp_path, PREPROCESS % "NormalizeImage: {scale: 1.0/255.0}").scale == 1 / 255


def test_a_crop_of_two_sides_is_width_and_height(tmp_path: Path) -> None:
    assert feeding(tmp_path, PREPROCESS % "{CropImage: {size: [320, 240]}}, NormalizeImage: {}").crop == (240, 320)


def test_labels_may_stand_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("0 a\n1 b c\n")

    text = "PostProcess: {Topk: {topk: 5, class_id_map_file: labels.txt}}"
    assert feeding(tmp_path, text).labels == ("a", "b c")


@pytest.mark.parametrize("name", ["below/labels.txt", "link.txt", "{folder}/below/labels.txt", "below/../link.txt"])
def test_a_label_file_lies_in_the_folder_or_below_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/labels.txt").write_text("a\nb\n")
    (tmp_path / "link.txt").symlink_to("below/labels.txt")

    text = f"PostProcess: {{Topk: {{class_id_map_file: {name.format(folder=tmp_path)}}}}}"
    assert feeding(tmp_path, text).labels == ("a", "b")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../labels.txt", "link.txt", "circle.txt", "below/link/labels.txt", '"\\0"']
)
def test_no_other_file_of_the_machine_becomes_labels(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    (model / "below").mkdir(parents=True)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (model / "link.txt").symlink_to(tmp_path / "labels.txt")
    (model / "circle.txt").symlink_to("circle.txt")
    (model / "below/link").symlink_to(tmp_path)

    with pytest.raises(ModelError, match=r"accepted is a file in the folder of inference\.yml"):
        feeding(model, f"PostProcess: {{Topk: {{class_id_map_file: {name}}}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("a: 2001-13-45", "not YAML: month must be in 1..12"),
        ("[" * 900 + "]" * 900, "not YAML: maximum recursion depth exceeded"),
        (PREPROCESS % "CropImage: {size: 224}", "no NormalizeImage among its transforms"),
        (PREPROCESS % "NormalizeImage: {}, CropImage: {size: 224}", "NormalizeImage, CropImage; accepted is, in this"),
        (PREPROCESS % "{NormalizeImage: {}}, {NormalizeImage: {}}", "NormalizeImage, NormalizeImage; accepted is"),
        ("just text", "the file is 'just text'; accepted is a mapping"),
        ("PreProcess: {transform_ops: 7}", "PreProcess.transform_ops is 7; accepted is a list"),
        (PREPROCESS % "RandomFlip: {}", "transform 'RandomFlip' is not supported; accepted are DecodeImage"),
        (PREPROCESS % "DecodeImage: {to_rgb: false}", "DecodeImage.to_rgb is False; accepted is true"),
        (PREPROCESS % "ResizeImage: {size: [224, 224]}", "accepted is resize_short"),
        (PREPROCESS % "ResizeImage: {resize_short: 0}", "ResizeImage.resize_short is 0; accepted is a whole number"),
        (PREPROCESS % "ResizeImage: {resize_short: 256, interpolation: bicubic}", "'bicubic'; accepted is 'bilinear'"),
        (PREPROCESS % "ResizeImage: {resize_short: 256, backend: pil}", "'pil'; accepted is 'cv2'"),
        (PREPROCESS % "CropImage: {size: [1, 2, 3]}", "CropImage.size is [1, 2, 3]"),
        (PREPROCESS % "CropImage: {size: big}", "CropImage.size is 'big'"),
        (PREPROCESS % "NormalizeImage: {scale: 1/0}", "NormalizeImage.scale is '1/0'"),
        (PREPROCESS % "NormalizeImage: {scale: __import__('os')}", "NormalizeImage.scale is"),
        (PREPROCESS % "NormalizeImage: {mean: [1, 2]}", "NormalizeImage.mean is [1, 2]; accepted are 3 numbers"),
        (PREPROCESS % "NormalizeImage: {std: [1, 0, 1]}", "accepted are numbers above 0"),
        ("PostProcess: {Topk: {label_list: []}}", "label_list is []; accepted is a list of labels"),
        ("PostProcess: {Topk: {label_list: ['a', ' ']}}", "label_list holds ' '"),
        ("PostProcess: {Topk: {class_id_map_file: no.txt}}", "no.txt: label file cannot be read"),
    ],
)
def test_what_the_service_cannot_do_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError) as refused:
        feeding(tmp_path, text)

    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
