"""A multipart/form-data body -> its files, or one sentence that says what was wrong; never anything else."""

from __future__ import annotations

import random

import pytest
from forms import BOUNDARY, FORM, form, part

from service.contract.form import MOST_HEADER_BYTES, MOST_HEADERS, MOST_PARTS, read_form
from service.contract.gateway import Route
from service.contract.request import PipelineRequest, Upload
from service.contract.upload import read_body
from service.errors import MalformedRequestError, UnsupportedMediaTypeError

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4 + b"\r\n--x-boundary-\r\n\xff\xd9"
ROUTE = Route("regnet", "prediction")


def read(*parts, content_type=FORM):
    return [(image.key, image.data) for image in read_form(form(*parts), content_type)]


def refusal(body, content_type=FORM):
    with pytest.raises(MalformedRequestError) as refused:
        read_form(body, content_type)
    return str(refused.value)


def test_every_file_is_an_image_in_order_to_the_byte():
    files = [JPEG, b"", b"\r\n", b"--" + BOUNDARY.encode(), JPEG[::-1]]
    parts = [part(file, name=f"image_{index}") for index, file in enumerate(files)]
    assert read(*parts) == [(f"image_{index}", file) for index, file in enumerate(files)]


def test_of_several_files_of_one_field_each_is_known_by_its_place_and_filename():
    parts = [part(b"1", "photos", "a.jpg"), part(b"2", "other", "b.jpg"), part(b"3", "photos", "c.jpg")]
    assert [key for key, _ in read(*parts)] == ["photos[0] a.jpg", "other", "photos[1] c.jpg"]


@pytest.mark.parametrize(
    "one",
    [
        part(JPEG, filename=None, headers=["Content-Type: image/jpeg"]),
        part(JPEG, filename=None, headers=["Content-Type: application/octet-stream"]),
        part(JPEG, filename=""),
        part(JPEG, headers=["Content-Transfer-Encoding: binary", f"Content-Length: {len(JPEG)}"]),
        part(JPEG, headers=["Content-Type: text/plain"]),
        part(JPEG, disposition="form-data; name=image; filename=a.jpg"),
        part(JPEG, disposition='form-data; filename="ü; name=x.jpg"; name="image"'),
    ],
    ids=["typed", "octets", "no filename chosen", "headers", "of another type", "tokens", "the other way round"],
)
def test_what_is_a_file(one):
    assert read(one) == [("image", JPEG)]


def test_a_boundary_may_be_quoted_and_text_may_follow_the_last_one():
    assert len(read_form(form(part(JPEG)) + b"epilogue", f'Multipart/Form-Data; charset=utf-8; BOUNDARY="{BOUNDARY}"'))


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (part(b"5", "top_k", None), "part 'top_k' is no file, for it has neither a filename nor the type of one"),
        (
            part(b"/9j/", headers=["Content-Transfer-Encoding: base64"]),
            "part 'image' has the Content-Transfer-Encoding 'base64' (accepted: binary, 8bit, 7bit)",
        ),
        (part(b"", headers=["X: " + "x" * MOST_HEADER_BYTES]), "Maximum segment header length exceeded (at most"),
        (part(b"", headers=["X: x"] * MOST_HEADERS), "Maximum segment header count exceeded (at most 4096 parts, 8"),
        (part(b"", headers=["no colon"]), "Malformed segment header"),
        (part(b"", disposition="attachment; filename=a"), "Invalid Content-Disposition segment header: Wrong type"),
        (part(b"", disposition="form-data; filename=a"), "Missing name option"),
        (part(b"", headers=["Content-Length: 7"]), "Segment size does not match Content-Length header"),
        (b"Content-Type: image/jpeg\r\n\r\nx", "Missing Content-Disposition segment header"),
        (part(b"x\r\n--" + BOUNDARY.encode() + b"y"), "Unexpected bytes after boundary"),
        (b"\xff\xfe: x\r\n\r\n", "Segment header failed to decode"),
    ],
)
def test_a_part_that_is_not_right_is_told_what_is_wrong(one, message):
    assert message in refusal(form(one))
    assert message in refusal(form(part(JPEG), one, part(JPEG)))


def test_there_may_be_so_many_parts_and_no_more():
    assert len(read_form(form(*[part(b"x")] * MOST_PARTS), FORM)) == MOST_PARTS
    message = refusal(form(*[part(b"x")] * (MOST_PARTS + 1)))
    assert message == (
        "multipart/form-data: Maximum segment count exceeded "
        "(at most 4096 parts, 8 headers a part and 4096 bytes a header accepted)"
    )


@pytest.mark.parametrize("end", [0, 1, 20, 60, 400, -1, -2, -3, -4, -6, -20])
def test_a_form_that_is_cut_off_anywhere_is_told_so(end):
    whole = form(part(JPEG, "a"), part(JPEG, "b"))[:-2]  # without the line end behind the last delimiter
    message = refusal(whole[:end])
    assert "multipart/form-data: " in message
    assert any(words in message for words in ("Unexpected end of multipart stream", "Boundary not found"))


@pytest.mark.parametrize("body", [b"", b"\r\n\r\n", b"hello", JPEG, b"--other\r\n\r\n", b"x" + form(part(JPEG))])
def test_what_is_no_form_is_told_so(body):
    assert refusal(body).startswith("multipart/form-data: ")


def test_a_form_without_files_is_told_so():
    assert refusal(form()) == "multipart/form-data: no part in it; each part must be an image file"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 71])  # fmt: skip
def test_a_boundary_must_be_given_and_short(content_type):
    assert "a boundary of 1 to 70 characters must be in Content-Type, there are " in refusal(form(), content_type)


# --- which body is what ----------------------------------------------------------------------------------------------


def body_of(body, content_type, **headers):
    given = {} if content_type is None else {b"content-type": content_type.encode()}
    return read_body(
        body, ROUTE, {**given, **{name.encode().replace(b"_", b"-"): text for name, text in headers.items()}}
    )


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/jpeg", "image/jpg", "IMAGE/PNG", "image/webp", "image/bmp", "image/x-ms-bmp", "image/gif", "image/*"),
        *("application/octet-stream", " Application/Octet-Stream ; charset=binary"),
    ],
)
def test_the_body_is_the_file_and_no_byte_of_it_is_copied(content_type):
    upload = body_of(JPEG, content_type)
    assert isinstance(upload, Upload)
    assert upload.images[0].data is JPEG
    assert (upload.name, upload.method, upload.logid) == ("regnet", "prediction", 0)


JSON = b' \r\n{"key": ["image"], "value": ["/9j/"]}'


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", "application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense", "image"),
        *("multipart/mixed; boundary=x", "video/mp4"),
        # To stock these are JSON, too; no image and no form begins like that
        *("image/jpeg", "image/tiff", "application/octet-stream", FORM, "multipart/form-data"),
    ],
)
def test_json_is_json_whatever_its_type_says(content_type):
    request = body_of(JSON, content_type, content_encoding=b"gzip")
    assert isinstance(request, PipelineRequest)
    assert request.value == ["/9j/"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "video/mp4"])
def test_a_file_of_a_type_that_is_none_of_an_image_is_no_json_as_to_stock(content_type):
    with pytest.raises(MalformedRequestError, match="invalid character 'ÿ' looking for beginning of value"):
        body_of(JPEG, content_type)


@pytest.mark.parametrize("content_type", ["image/tiff", "image/svg+xml", "image/heic", "image/", "image/avif; q=1"])
def test_an_image_of_another_type_is_told_which_are_accepted(content_type):
    with pytest.raises(UnsupportedMediaTypeError) as refused:
        body_of(b"II*\0", content_type)
    assert str(refused.value) == (
        f"Content-Type '{content_type.partition(';')[0]}' is not taken (accepted: image/jpeg, image/png, image/webp, "
        "image/bmp, image/gif, application/octet-stream, multipart/form-data)"
    )
    assert refused.value.http_status == 415


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", FORM])
@pytest.mark.parametrize("coding", [b"gzip", b"BR", b"identity, gzip"])
def test_a_compressed_body_is_refused(content_type, coding):
    with pytest.raises(UnsupportedMediaTypeError, match=r"Content-Encoding '.*' is not taken \(accepted: identity\)"):
        body_of(form(part(JPEG)), content_type, content_encoding=coding)
    assert body_of(form(part(JPEG)), content_type, content_encoding=b"Identity").images


# --- whatever comes --------------------------------------------------------------------------------------------------

SEEDS = [
    form(part(JPEG)),
    form(part(b"", "a", "x"), part(JPEG, "b", None, headers=["Content-Type: image/png"]), part(b"\r\n" * 9, "a")),
    form(part(JPEG, disposition='form-data; name="\\"q\\""; filename="C:\\\\a%22.jpg"', headers=["Content-Length: 1"])),
    form(),
]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"--",
    b"--" + BOUNDARY.encode(),
    b'"',
    b"\\",
    b";",
    b":",
    b"\0",
    b"\xff",
    b" \t",
    b"=",
]


def mutated(chance):
    body = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(body) + 1), chance.choice((0, 1, 2, 30))
        piece = chance.choice((*PIECES, chance.randbytes(3), bytes(body[at : at + 40]) * 2))
        body[at : at + length] = piece
    return bytes(body[: chance.choice((len(body), chance.randrange(len(body) + 1)))])


def test_whatever_comes_is_files_or_a_refusal():
    chance, files, refusals = random.Random(20), 0, 0
    for _ in range(20_000):
        body = mutated(chance)
        try:
            images = read_body(body, ROUTE, {b"content-type": chance.choice((FORM, FORM.upper())).encode()}).images
        except MalformedRequestError as error:
            assert 0 < len(str(error)) < 400
            refusals += 1
        else:
            assert sum(len(image.data) for image in images) < len(body)
            files += 1
    assert min(files, refusals) > 500  # both sides of the door were met
