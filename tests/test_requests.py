"""Requests from both doors become images in order, or the failure stock answers (recorded/service.json)."""

import base64
import io
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from regnetx_client.wire import pipeline_service_pb2 as wire
from service.contract.answers import in_band
from service.contract.encoded_image import EncodedImage, file_of
from service.contract.gateway import Route
from service.contract.request import PipelineRequest, Tensor, parse_body
from service.contract.unpack import unpack
from service.errors import ImageError, MalformedRequestError, RpcPackageError, ServiceError, ServiceNameError

RECORDED = json.loads((Path(__file__).parent / "recorded" / "service.json").read_text(encoding="utf-8"))
PNG = base64.b64decode(RECORDED[0]["fields"]["value"][0])
# Stock fails on any array, in words that are about its own code; ours say what is accepted, or take the image
ARRAYS = "numpy.ndarray object has no attribute encode"
UNPACKED = [row for row in RECORDED if ARRAYS not in row["rpc"]["err_msg"]]


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def by_grpc(fields):
    tensors = [
        wire.Tensor(**{**tensor, "byte_data": tensor.get("byte_data", "").encode("latin-1")})
        for tensor in fields.get("tensors", ())
    ]
    return wire.Request.FromString(wire.Request(**{**fields, "tensors": tensors}).SerializeToString())


def by_http(fields):
    tensors = [
        {**tensor, "byte_data": base64.b64encode(tensor.get("byte_data", "").encode("latin-1")).decode()}
        for tensor in fields.get("tensors", ())
    ]
    body = json.dumps({**fields, "tensors": tensors} if tensors else fields).encode()
    return parse_body(body, Route(fields.get("name", "imagenet"), fields.get("method", "prediction")))


def outcome(request):
    """The images' files, or the answer that a failure before decoding an image gives."""
    try:
        return [file_of(image) for image in unpack(request, "imagenet")]
    except ServiceError as error:
        response = in_band(error, request.logid, "imagenet")
        return (response.err_no, response.err_msg)


def described(row):
    return json.dumps(row["fields"])[:80]


@pytest.mark.parametrize("door", [by_http, by_grpc])
@pytest.mark.parametrize("row", UNPACKED, ids=described)
def test_what_stock_refuses_before_it_decodes_an_image_is_refused_in_its_words(row, door):
    found, stock = outcome(door(row["fields"])), (row["rpc"]["err_no"], row["rpc"]["err_msg"])
    if isinstance(found, tuple):
        assert found == stock
        return
    decoded_by_us_only = str(row["fields"]).count("data:image/png;base64,")
    in_decoding = any(words in stock[1] for words in ("OpenCV", "NoneType", "failed to predict", "must be str"))
    of_profile = "pipeline.profile" in row["fields"].get("key", ())
    assert stock == (0, "") or decoded_by_us_only or in_decoding or of_profile


def test_both_doors_give_the_same():
    for row in UNPACKED:
        assert outcome(by_http(row["fields"])) == outcome(by_grpc(row["fields"]))


@pytest.mark.parametrize("door", [by_http, by_grpc])
def test_a_key_given_twice_has_its_last_value_at_its_first_place(door):
    request = door({"key": ["a", "b", "a"], "value": ["AAAA", "BBBB", "CCCC"]})
    assert unpack(request, "imagenet") == [EncodedImage("a", "CCCC", True), EncodedImage("b", "BBBB", True)]


def test_the_keys_come_before_the_tensors_and_a_tensor_replaces_a_key():
    text = Tensor(name="a", elem_type=12, str_data=["CC", "CC"])
    other = Tensor(name="c", elem_type=12, str_data=["DDDD"])
    request = PipelineRequest(key=["a", "b"], value=["AAAA", "BBBB"], tensors=[other, text])
    assert [(image.key, image.data) for image in unpack(request, "")] == [("a", "CCCC"), ("b", "BBBB"), ("c", "DDDD")]


@pytest.mark.parametrize("door", [by_http, by_grpc])
@pytest.mark.parametrize(
    "tensor",
    [
        {"elem_type": 7, "uint32_data": list(PNG), "shape": [len(PNG)]},
        {"elem_type": 7, "uint32_data": list(PNG), "shape": [-1]},
        {"elem_type": 13, "byte_data": saved(np.frombuffer(PNG, np.uint8)).decode("latin-1")},
        {"elem_type": 13, "byte_data": saved(np.frombuffer(PNG, np.uint8)).decode("latin-1") + "more"},
    ],
    ids=["numbers", "numbers of any count", "npy", "npy with a tail"],
)
def test_a_one_dimensional_uint8_array_is_the_encoded_file(tensor, door):
    assert unpack(door({"tensors": [{"name": "photo", **tensor}]}), "imagenet") == [EncodedImage("photo", PNG, False)]


@pytest.mark.parametrize(
    ("tensor", "described"),
    [
        (Tensor(elem_type=1, float_data=[0.5] * 6, shape=[2, 3]), r"array of float32 of shape \(2, 3\)"),
        (Tensor(elem_type=7, uint32_data=[1] * 4, shape=[2, 2]), r"array of uint8 of shape \(2, 2\)"),
        (Tensor(elem_type=7, uint32_data=[1]), r"array of uint8 of shape \(\)"),
        (Tensor(elem_type=8, int_data=[1], shape=[1]), r"array of int8 of shape \(1,\)"),
        (Tensor(elem_type=13, byte_data=saved(np.zeros((2, 3, 3), np.uint8))), r"array of uint8 of shape \(2, 3, 3\)"),
        (Tensor(elem_type=13, byte_data=saved(np.float32(1))), r"array of <f4 of shape \(\)"),
    ],
)
def test_any_other_array_is_refused_with_what_is_accepted(tensor, described):
    request = PipelineRequest(tensors=[tensor])
    with pytest.raises(ImageError, match=rf"{described}; accepted are base64 text and a 1-d uint8 array, both of an"):
        unpack(request, "imagenet")


def test_a_uint8_tensor_with_larger_numbers_is_refused():
    tensor = Tensor(name="photo", elem_type=7, uint32_data=[1, 300], shape=[2])
    with pytest.raises(ImageError, match=r"^tensor photo holds 300, but its elem_type 7 is uint8: 0 to 255$"):
        unpack(PipelineRequest(tensors=[tensor]), "")


def test_a_lod_makes_an_array_of_its_own_which_is_no_image():
    tensor = Tensor(name="photo", elem_type=7, uint32_data=[1], shape=[1], lod=[0, 1])
    with pytest.raises(ImageError, match=r"^photo.lod is an array of int32"):
        unpack(PipelineRequest(tensors=[tensor]), "")


class Bomb:
    """Unpickled, it makes a file: the harmless form of the remote code execution of Serving#1907."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("door", [by_http, by_grpc])
@pytest.mark.parametrize("wrapped", [True, False], ids=["in an object array", "bare"])
def test_a_pickle_in_byte_data_is_never_loaded(tmp_path, wrapped, door):
    trace = tmp_path / "executed"
    array = np.array([Bomb(trace)], object)
    content = saved(array, allow_pickle=True) if wrapped else pickle.dumps(Bomb(trace))
    with pytest.raises(RpcPackageError, match=r"accepted is what numpy.save writes of a 1-d uint8 array$"):
        unpack(door({"tensors": [{"name": "x", "elem_type": 13, "byte_data": content.decode("latin-1")}]}), "imagenet")
    assert not trace.exists()
    np.load(io.BytesIO(content), allow_pickle=True)
    assert trace.exists()  # the bomb was live


@pytest.mark.parametrize(
    ("shape", "described"),
    [
        (b"(1000000000000,)", r"cut off: shape \(1000000000000,\) needs 1000000000000 bytes, 3 are there$"),
        (b"(9999999999, 9999999999)", "cut off: shape"),
        (b"(-1,)", "a header that is cut off or of another kind"),
        (b"(" + b"1, " * 130 + b")", "cut off: shape|is an array of uint8"),
        (b"(__import__('os'),)", "a header that is cut off or of another kind"),
    ],
)
def test_a_header_that_promises_much_allocates_nothing(shape, described):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n" % shape
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"abc"
    with pytest.raises(ServiceError, match=described):
        unpack(PipelineRequest(tensors=[Tensor(elem_type=13, byte_data=content)]), "")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_format_is_read(version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.frombuffer(PNG, np.uint8), version=version)
    assert unpack(PipelineRequest(tensors=[Tensor(elem_type=13, byte_data=buffer.getvalue())]), "")[0].data == PNG


def test_the_profile_key_is_no_image():
    request = PipelineRequest(key=["image", "pipeline.profile"], value=["AAAA", "1"])
    assert [image.key for image in unpack(request, "")] == ["image"]
    with pytest.raises(ImageError, match=r"^need at least one array to concatenate$"):
        unpack(PipelineRequest(key=["pipeline.profile"], value=["1"]), "")


def test_only_another_name_is_refused_and_no_method_is():
    image = {"key": ["a"], "value": ["AAAA"]}
    for name in ("", "regnet"):
        assert unpack(PipelineRequest(**image, name=name, method="anything"), "regnet")
    with pytest.raises(ServiceNameError, match=r"^Failed to inference: Service name error\.$"):
        unpack(PipelineRequest(**image, name="Regnet"), "regnet")


def random_tensor(dice):
    numbers = [dice.choice([0, 1, 255, 256, 2**31 - 1]) for _ in range(dice.randrange(4))]
    content = saved(np.zeros(dice.randrange(3), dice.choice(["u1", "f4", "i1", "U3", "i4,f8"])))
    damaged = bytearray(content)
    for _ in range(dice.randrange(4)):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return Tensor(
        name=dice.choice(["a", "", "pipeline.profile"]),
        elem_type=dice.choice([*range(-1, 16), 99]),
        uint32_data=numbers,
        int_data=numbers,
        float_data=numbers,
        str_data=[dice.choice(["AAAA", "=", "é\u2028"])],
        byte_data=bytes(damaged[: dice.randrange(len(damaged) + 1)]) if dice.random() < 0.5 else bytes(damaged),
        shape=[dice.choice([-1, 0, 1, 2, 2**31 - 1]) for _ in range(dice.randrange(4))],
        lod=[0] * dice.choice([0, 0, 0, 2, 3]),
    )


def test_no_request_makes_anything_but_a_service_error_escape():
    dice = random.Random(31)
    outcomes = set()
    for _ in range(5000):
        keys, values = (["a"] * dice.randrange(3) for _ in range(2))
        request = PipelineRequest(
            key=keys, value=values, tensors=[random_tensor(dice) for _ in range(dice.randrange(3))]
        )
        try:
            outcomes.update(type(file_of(image)) for image in unpack(request, "imagenet"))
        except ServiceError as error:
            outcomes.add(type(error))
            assert len(str(error)) < 1000
    assert outcomes == {bytes, RpcPackageError, ImageError}


def test_no_body_makes_anything_but_a_refusal_escape_on_its_whole_way():
    dice = random.Random(32)
    seeds = [json.dumps(row["fields"]).encode() for row in RECORDED if len(str(row["fields"])) < 2000]
    outcomes = set()
    for _ in range(5000):
        body = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(3)):
            body[dice.randrange(len(body))] = dice.choice(b'"\\{}[],:0-e\xff=')
        try:
            request = parse_body(bytes(body), Route("imagenet", "prediction"))
            outcomes.update(type(file_of(image)) for image in unpack(request, "imagenet"))
        except ServiceError as error:
            outcomes.add(type(error))
    assert outcomes == {bytes, MalformedRequestError, RpcPackageError, ImageError}
