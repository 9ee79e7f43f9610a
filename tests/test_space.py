"""The served comparison without a browser: its data, API, MCP, images of all kinds, and the folder of a Space."""

import base64
import io
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import smooth_images
from space_server import serving
from viewer_site import HOSTILE

from hf_vitstudy import space_release
from hf_vitstudy.errors import StudyError
from hf_vitstudy.markdown import one_line
from hf_vitstudy.space_release import (
    CARD,
    DATA,
    EXAMPLES_FILE,
    REQUIREMENTS,
    STUDY_FILE,
    card,
    default_data,
    requirements,
    space_folder,
)
from hf_vitstudy.viewer import Source, checkpoint_data, pair_data, study_data
from hf_vitstudy.viewer.bundle import Bundle, Measured, Packed, open_pages, pack, write_bundle


httpx = pytest.importorskip("httpx", reason="gradio is not installed; pip install 'hf_vitstudy[space]'")
pytest.importorskip("gradio", reason="gradio is not installed; pip install 'hf_vitstudy[space]'")
PIL = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(small_study) -> Source:
    return Source(small_study)


@pytest.fixture(scope="module")
def client(space_address):
    with httpx.Client(base_url=space_address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def live(client) -> dict:
    """What is said of the networks once they are loaded."""
    for _ in range(600):
        about = client.get("/vitstudy/live").json()
        if about["state"] != "loading":
            return about
        time.sleep(0.1)
    raise AssertionError("the networks are still being loaded")


# --------------------------------------------------------------------------------------------------------------- data


def test_data_served_is_that_of_the_static_page(client, source):
    assert client.get("/vitstudy/data/study.json").json() == json.loads(json.dumps(study_data(source)))
    assert client.get("/vitstudy/data/checkpoint-3.json").json() == json.loads(json.dumps(checkpoint_data(source, 3)))
    assert client.get("/vitstudy/data/pair-0-3.json").json() == json.loads(json.dumps(pair_data(source, 0, 3)))


MISSING = [
    "pair-3-0",
    "pair-0-2",
    "pair-0-0",
    "pair-0",
    "checkpoint-5",
    "checkpoint-0-1",
    "study-1",
    "x",
    "checkpoint--1",
]


@pytest.mark.parametrize("name", [*(f"{name}.json" for name in MISSING), "study.json%00"])
def test_what_is_not_there_is_not_found(client, name):
    answer = client.get(f"/vitstudy/data/{name}")
    assert answer.status_code == 404
    assert answer.json() == {"error": "There is nothing of this name.", "again": None}


@pytest.mark.parametrize(
    ("accepted", "packed"), [("gzip, deflate, br", "br"), ("gzip;q=0.5, deflate", "gzip"), ("identity", None)]
)
def test_data_is_packed_as_the_browser_accepts(client, accepted, packed):
    answer = client.get("/vitstudy/data/study.json", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == packed
    assert answer.json()["title"]


def test_data_is_packed_and_not_sent_twice(client):
    first = client.get("/vitstudy/data/study.json")
    assert first.headers["content-encoding"] == "br"
    assert client.get("/vitstudy/data/study.json", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    plain = client.get("/vitstudy/data/study.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == first.json()


def test_a_bundle_holds_what_is_made_on_request(source, tmp_path):
    written = write_bundle(source, tmp_path / "study.json.xz")
    stored, made = Bundle(written), Measured(source)
    names = [
        "study.json",
        *(f"{kind}-{k}.json" for kind in ("checkpoint", "network", "fields", "weights") for k in range(5)),
    ]
    for a, b in combinations_with_replacement([0, 1, 3, 4], 2):
        names += [f"measures-{a}-{b}.json"] + [f"pair-{a}-{b}.json"] * (a != b)
    assert len(names) == 37
    for name in names:
        assert json.loads(stored.read(name)) == json.loads(made.read(name))
    assert write_bundle(source, tmp_path / "again.json.xz").read_bytes() == written.read_bytes()
    assert open_pages(written)[0].read("pair-0-1.json") == made.read("pair-0-1.json")


def no_file(folder: Path) -> Path:
    return folder / "none.xz"


def no_archive(folder: Path) -> Path:
    (folder / "a.xz").write_bytes(b"PK")
    return folder / "a.xz"


def no_study(folder: Path) -> Path:
    return pack({"checkpoint-0.json": {}}, folder / "b.xz")


def another_format(folder: Path) -> Path:
    return pack({"study.json": {"format": 99}}, folder / "c.xz")


BAD_BUNDLES = {
    no_file: "holds no data of a page .*; write it again",
    no_archive: "holds no data of a page .*; write it again",
    no_study: "holds no study.json that can be read",
    another_format: "has format 99, this version reads 1; write it again",
}


@pytest.mark.parametrize("case", BAD_BUNDLES, ids=lambda case: case.__name__)
def test_a_bad_bundle_is_said(tmp_path, case):
    with pytest.raises(StudyError, match=BAD_BUNDLES[case]):
        open_pages(case(tmp_path))


def test_neither_a_folder_nor_an_address_is_said(tmp_path):
    with pytest.raises(StudyError, match="no study at"):
        open_pages(tmp_path / "nothing here")


# ---------------------------------------------------------------------------------------------------------------- API


def call(client, name: str, *words: str):
    answer = client.post(f"/gradio_api/run/{name}", json={"data": list(words)})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["data"][0])


def test_checkpoints_are_listed(client, source):
    rows = call(client, "list_checkpoints")
    assert [row["name"] for row in rows] == ["resnet-0", "resnet-1", "vit-elsewhere", "vit-0", HOSTILE]
    assert rows[3]["accuracy"] == study_data(source)["checkpoints"][3]["accuracy"]
    assert all(isinstance(number, float) for number in rows[3]["accuracy"])
    assert rows[3]["curves"] == list(checkpoint_data(source, 3)["curves"])


def test_claims_have_their_verdicts(client, source):
    rows = call(client, "list_claims", "")
    judged = {each["id"]: each["agreement"] for each in study_data(source)["claims"] if "agreement" in each}
    assert {row["claim"]: (row["verdict"], row["estimate"], row["n"]) for row in rows} == {
        name: (each["verdict"], each["estimate"], each["n"]) for name, each in judged.items()
    }
    wanted = rows[0]["verdict"]
    assert call(client, "list_claims", wanted) == [row for row in rows if row["verdict"] == wanted]


def test_judgements_of_a_claim(client, source):
    data = study_data(source)
    name = next(name for name, rows in data["judgements"].items() if len(rows) > 1)
    stored = data["judgements"][name]
    found = call(client, "judgements", name, "")
    assert len(found) == len(stored)
    names = [each["id"] for each in data["checkpoints"]]
    assert found[0]["checkpoints"] == [names[k] for k in stored[0][0]]
    assert found[0]["estimate"] == (None if stored[0][2] is None else stored[0][2:5])
    one = found[0]["checkpoints"][0]
    of_one = call(client, "judgements", name, one)
    assert of_one == [row for row in found if one in row["checkpoints"]]
    assert 0 < len(of_one) <= len(found)


@pytest.mark.parametrize(("a", "b"), [("vit-0", "resnet-1"), ("resnet-1", "vit-0"), ("resnet-0", "resnet-0")])
def test_cka_is_the_cell_of_the_map(client, source, a, b):
    numbers = {"resnet-0": 0, "resnet-1": 1, "vit-0": 3}
    first, second = numbers[a], numbers[b]
    names = [checkpoint_data(source, k)["places"]["name"] for k in (first, second)]
    if first == second:
        stored = np.array(checkpoint_data(source, first)["map"]["cka"]).reshape(len(names[0]), -1)
    else:
        stored = np.array(pair_data(source, *sorted((first, second)))["map"]["cka"], float)
        stored = stored.reshape([len(names[k]) for k in ((0, 1) if first < second else (1, 0))])
        stored = stored if first < second else stored.T
    found = call(client, "cka", a, b, names[0][5], "2")
    assert found["cka"] == stored[5, 2] / 1000
    assert found["low"] <= found["cka"] <= found["high"]
    assert (found["place_a"], found["place_b"], found["n"]) == (names[0][5], names[1][2], 64)
    best = call(client, "best_match", a, b, "5")
    row = np.where(np.arange(len(names[1])) == (5 if first == second else -1), -1, stored[5])
    assert best["place_b"] == names[1][int(np.nanargmax(row))]
    assert best["cka"] == np.nanmax(row) / 1000


def test_a_curve_is_that_of_the_page(client, source):
    stored = checkpoint_data(source, 3)
    found = call(client, "curve", "vit-0", "fourier")
    assert [point["value"] for point in found["points"]] == stored["curves"]["fourier"]["value"]
    assert [point["place"] for point in found["points"]] == stored["curves"]["fourier"]["name"]
    assert found["points"][0]["depth"] == stored["places"]["depth"][stored["curves"]["fourier"]["place"][0]]


UNKNOWN = [
    ("cka", ["vit-00", "resnet-0", "0", "0"], "no checkpoint 'vit-00'; did you mean vit-0?"),
    ("cka", ["vit-0", "resnet-0", "99", "0"], "no place '99'; there are: "),
    ("cka", ["vit-0", "vit-elsewhere", "0", "0"], "these two were not measured on the same images"),
    ("best_match", ["vit-0", "resnet-0", "3"], "CKA of 3 of vit-0 is undefined"),
    ("curve", ["vit-0", "hessian"], "no curve 'hessian'; there are: "),
    ("list_claims", ["true"], "no verdict 'true'; "),
    ("judgements", ["R-99", ""], "no claim 'R-99'; "),
    ("judgements", ["../../etc/passwd", ""], "no claim '../../etc/passwd'; "),
]


@pytest.mark.parametrize(("name", "words", "told"), UNKNOWN)
def test_what_is_asked_wrong_is_told(client, name, words, told):
    assert told in call(client, name, *words)["error"]


def test_only_the_functions_are_in_the_api(client):
    info = client.get("/gradio_api/info").json()
    names = ["/list_checkpoints", "/list_claims", "/judgements", "/cka", "/best_match", "/curve"]
    assert list(info["named_endpoints"]) == names
    assert info["unnamed_endpoints"] == {}
    cka = info["named_endpoints"]["/cka"]
    assert [each["parameter_name"] for each in cka["parameters"]] == ["a", "b", "place_a", "place_b"]
    assert "95 % interval" in cka["description"]


def test_the_client_of_gradio_gets_json(space_address):
    from gradio_client import Client

    client = Client(space_address, verbose=False)
    try:
        found = json.loads(client.predict("vit-0", "resnet-0", "5", "2", api_name="/cka"))
        assert isinstance(found["cka"], float)
    finally:
        client.close()


def test_the_functions_are_tools(client):
    tools = client.get("/gradio_api/mcp/schema").json()
    assert [tool["name"] for tool in tools] == [
        "list_checkpoints",
        "list_claims",
        "judgements",
        "cka",
        "best_match",
        "curve",
    ]
    assert set(tools[3]["inputSchema"]["properties"]) == {"a", "b", "place_a", "place_b"}
    asked = {"name": "cka", "arguments": {"a": "vit-0", "b": "resnet-0", "place_a": "5", "place_b": "2"}}
    answer = client.post(
        "/gradio_api/mcp/",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked},
        headers={"Accept": "application/json, text/event-stream"},
    )
    told = json.loads(answer.text[answer.text.index("{") :])
    assert json.loads(told["result"]["content"][0]["text"]) == call(client, "cka", "vit-0", "resnet-0", "5", "2")


# ------------------------------------------------------------------------------------------------------------- images


def encoded(image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(seed: int = 0, size: int = 40):
    return PIL.fromarray(smooth_images(1, size, seed)[0])


def look(client, content: bytes, **ask):
    return client.post("/vitstudy/look", params={"want": "all"} | ask, content=content)


def pixels_of(side: dict) -> np.ndarray:
    return np.array(PIL.open(io.BytesIO(base64.b64decode(side["image"].split(",")[1]))))


def test_both_networks_are_told_of(live):
    vit, resnet = live["sides"]
    assert (live["state"], vit["name"], resnet["name"]) == ("ready", "small-vit", "small-resnet")
    assert (vit["grid"], vit["prefix"], len(vit["layers"])) == ([8, 8], 1, 3)
    assert (resnet["grid"], resnet["layers"]) == (None, [])


def test_answers_are_those_of_the_networks(client, live, vit_folder, resnet_folder):
    """Against transformers itself, from the pixels that each network is said to have seen."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    answer = look(client, encoded(picture(1)), layer=1).json()
    for side, folder in zip(answer["sides"], (vit_folder, resnet_folder), strict=True):
        network = AutoModelForImageClassification.from_pretrained(
            folder, attn_implementation="eager" if "vit" in folder.name else None
        )
        processor = AutoImageProcessor.from_pretrained(folder)
        assert np.abs(pixels_of(side).astype(int) - np.asarray(picture(1).resize((32, 32), 2)).astype(int)).max() <= 1
        inputs = processor(pixels_of(side), do_resize=False, return_tensors="pt")
        with torch.no_grad():
            output = network(**inputs, output_attentions="vit" in folder.name)
        expected = output.logits[0].softmax(0)
        order = expected.argsort(descending=True)[:5].tolist()
        assert [name for name, _ in side["top"]] == [f"LABEL_{k}" for k in order]
        assert [p for _, p in side["top"]] == pytest.approx(expected[order].tolist(), rel=2e-3)
        if side["attention"]:
            weights, expected_weights = unpacked(side["attention"]), output.attentions[1][0].numpy()
            assert np.abs(weights - expected_weights).max() <= 0.5 / 255 * expected_weights.max() + 1e-6
    assert answer["sides"][1]["attention"] is None


def unpacked(attention: dict) -> np.ndarray:
    """(head, query, key)."""
    shape = attention["heads"], attention["tokens"], attention["tokens"]
    relative = np.frombuffer(base64.b64decode(attention["weights"]), np.uint8).reshape(shape)
    return relative / 255 * np.frombuffer(base64.b64decode(attention["peak"]), "<f4").reshape(shape[:2])[..., None]


def test_attention_of_a_layer_is_asked_for_by_pixels(client, live):
    first = look(client, encoded(picture(2)), layer=0).json()["sides"][0]
    seen = base64.b64decode(first["image"].split(",")[1])
    again = look(client, seen, want="attention", side=0, layer=0).json()["attention"]
    assert again == first["attention"]
    other = look(client, seen, want="attention", side=0, layer=2).json()["attention"]
    assert other["layer"] == 2
    assert other["weights"] != again["weights"]


def test_a_receptive_field_lies_around_its_place(client, live):
    side = look(client, encoded(picture(3))).json()["sides"][1]
    seen = base64.b64decode(side["image"].split(",")[1])
    for y, x in [(0.1, 0.1), (0.9, 0.6)]:
        field = look(client, seen, want="field", side=1, block=0, y=y, x=x).json()["field"]
        heat = np.frombuffer(base64.b64decode(field["map"]), np.uint8).reshape(field["rows"], -1) / 255
        centre = [(heat.sum(1 - axis) @ (np.arange(32) + 0.5)) / heat.sum() for axis in (0, 1)]
        assert centre == pytest.approx([32 * y, 32 * x], abs=4)
        assert 0 < field["radius"][0] <= field["radius"][1] < 24
    deep = look(client, seen, want="field", side=1, block=99, y=0.5, x=0.5).json()["field"]
    assert deep["block"] == len(live["sides"][1]["blocks"]) - 1
    assert deep["radius"][0] > field["radius"][0]


def test_filters_move_the_answers(client, live):
    side = look(client, encoded(picture(4))).json()["sides"][0]
    seen = base64.b64decode(side["image"].split(",")[1])
    stops = [
        stop for piece in range(4) for stop in look(client, seen, want="sweep", side=0, piece=piece).json()["sweep"]
    ]
    assert [stop["kind"] for stop in stops] == ["low"] * 8 + ["none"] + ["high"] * 8
    assert [p for _, p in stops[8]["top"]] == pytest.approx([p for _, p in side["top"]], rel=2e-3)
    cutoffs = [stop["cutoff"] for stop in stops]
    assert cutoffs[:8] == sorted(cutoffs[:8])
    assert cutoffs[9:] == sorted(cutoffs[9:])
    contrast = [pixels_of(stop).std() for stop in stops]
    assert contrast[0] < 0.8 * contrast[8]
    assert contrast[16] < 0.5 * contrast[8]
    assert stops[0]["top"] != stops[8]["top"] != stops[16]["top"]


def png(width: int, height: int) -> bytes:
    """A tiny file that claims so many pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunk = lambda part: struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(head) + chunk(body) + chunk(b"IEND")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/x"/><script>alert(1)</script></svg>'
REFUSED = {
    "bomb": png(30_000, 30_000),
    "smaller bomb": png(5000, 4100),
    "wide bomb": png(2_000_000_000, 1),
    "svg": SVG,
    "html": b"<html><script>alert(1)</script></html>",
    "html as png": b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script></html>",
    "cut off": encoded(picture())[:700],
    "empty": b"",
    "text": b"file:///etc/passwd",
    "address": b"http://169.254.169.254/latest/meta-data",
    "far too long": encoded(PIL.new("RGB", (1, 3000))),
    "tiff": encoded(picture(), "TIFF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_in_plain_words(client, live, case):
    answer = look(client, REFUSED[case])
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(
        "This file cannot be read as an image. PNG, JPEG, WebP, GIF and BMP files"
    )


def turned() -> bytes:
    """A photograph taken with the camera on its side."""
    tag = PIL.Exif()
    tag[0x0112] = 6
    return encoded(picture(5), "JPEG", exif=tag, quality=95)


def test_orientation_is_applied(client, live):
    seen = pixels_of(look(client, turned()).json()["sides"][0])
    upright = np.asarray(picture(5).transpose(PIL.Transpose.ROTATE_270).resize((32, 32), 2))
    assert np.abs(seen.astype(int) - upright).mean() < 4


ACCEPTED = {
    "gray": lambda: encoded(picture().convert("L")),
    "one bit": lambda: encoded(picture().convert("1")),
    "palette": lambda: encoded(picture().convert("P")),
    "transparent": lambda: encoded(picture().convert("RGBA")),
    "cmyk": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "gif": lambda: encoded(picture(), "GIF"),
    "webp": lambda: encoded(picture(), "WEBP"),
    "one pixel": lambda: encoded(PIL.new("RGB", (1, 1), "red")),
    "long": lambda: encoded(PIL.new("RGB", (4, 600))),
    "html after a png": lambda: encoded(picture()) + b"<script>alert(1)</script>",
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_images_of_every_mode_are_looked_at(client, live, case):
    answer = look(client, ACCEPTED[case]())
    assert answer.status_code == 200, answer.text
    assert [len(side["top"]) for side in answer.json()["sides"]] == [5, 5]
    assert pixels_of(answer.json()["sides"][0]).shape == (32, 32, 3)


WRONG_ASKS = [
    {"want": "secrets"}, {"want": "field", "side": 2}, {"want": "field", "y": 1}, {"want": "field", "x": "nan"},
    {"want": "attention", "layer": -1}, {"want": "field", "block": "../x"}, {"want": "sweep", "piece": "1e9"},
]  # fmt: skip


@pytest.mark.parametrize("ask", WRONG_ASKS, ids=str)
def test_a_wrong_question_is_refused(client, live, ask):
    answer = look(client, encoded(picture()), **ask)
    assert (answer.status_code, answer.json()["error"]) == (400, "This request fits no image that was shown here.")


def test_pixels_of_another_size_are_refused(client, live):
    answer = look(client, encoded(picture(size=33)), want="field", side=1)
    assert (answer.status_code, answer.json()["error"]) == (422, "This request fits no image that was shown here.")


def test_many_at_once_are_answered_each_about_their_own_image(space_address, live):
    """50 people with images of one colour each: an answer shows that colour, or tells to wait."""
    colours = [(5 * k, 255 - 5 * k, (40 * k) % 256) for k in range(50)]

    def visit(colour):
        with httpx.Client(base_url=space_address, timeout=120) as own:
            for turn in range(200):
                answer = look(own, encoded(PIL.new("RGB", (32, 32), colour)))
                if answer.status_code == 200:
                    return turn, [pixels_of(side)[7, 9].tolist() for side in answer.json()["sides"]]
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
                assert "asked again in a few seconds" in answer.json()["error"]
                time.sleep(0.2)
        raise AssertionError("never answered")

    with ThreadPoolExecutor(50) as people:
        found = list(people.map(visit, colours))
    assert [seen for _, seen in found] == [[list(colour)] * 2 for colour in colours]
    assert any(turn for turn, _ in found), "nobody was told to wait"


# ------------------------------------------------------------------------------------------------------------- safety

FILE = {"path": "http://169.254.169.254/latest/meta-data", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "file", [FILE, FILE | {"path": "/etc/passwd"}, {"path": "/etc/passwd", "url": "http://127.0.0.1:1"}, {"a": [FILE]}]
)
@pytest.mark.parametrize("where", ["run/cka", "call/cka", "queue/join", "mcp/"])
def test_no_request_may_name_a_file(client, file, where):
    answer = client.post(f"/gradio_api/{where}", json={"data": [file, "", "", ""], "fn_index": 3, "session_hash": "a"})
    assert (answer.status_code, answer.json()["error"]) == (403, "This app takes no files.")


def test_escapes_do_not_hide_a_file(client):
    body = json.dumps({"data": [FILE, "", "", ""]}).replace("path", "p\\u0061th").replace("meta", "m\\u0065ta")
    assert client.post("/gradio_api/run/cka", content=body).status_code == 403


def test_nothing_is_uploaded(client):
    small = client.post("/gradio_api/upload", files={"files": ("a.png", encoded(picture()))})
    assert (small.status_code, small.json()["error"]) == (403, "This app takes no files.")
    assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(50_000_000))}).status_code == 413


def test_fifty_megabytes_are_refused(client, live):
    answer = look(client, bytes(50_000_000))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("This file cannot be read as an image.")


def test_a_body_without_a_length_is_bounded(client, live):
    def pieces():
        for _ in range(50):
            yield bytes(1_000_000)

    assert client.post("/vitstudy/look?want=all", content=pieces()).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=../../etc/passwd", "gradio_api/file=/etc/passwd", "gradio_api/file=http://127.0.0.1:1/x",
        "gradio_api/proxy=http://127.0.0.1:1/x", "gradio_api/file/%2e%2e/%2e%2e/etc/passwd", "static/..%2f..%2fetc/passwd",
        "vitstudy/0000000000000000/viz.js", "vitstudy/examples/9.json", "vitstudy/data/..%2f..%2fetc%2fpasswd",
        "monitoring", "docs",
    ],
)  # fmt: skip
def test_files_of_the_machine_are_not_served(client, path):
    answer = client.get(f"/{path}")
    assert answer.status_code in (403, 404), answer.text[:200]
    assert "root:" not in answer.text


def test_an_error_tells_nothing_of_the_machine(client):
    answer = client.post("/gradio_api/run/cka", json={"data": [{"a": 1}, 2, None, []]})
    assert str(ROOT) not in answer.text
    assert "Traceback" not in answer.text


def test_the_page_names_nothing_outside(client):
    text = client.get("/").text
    assert '"analytics_enabled":false' in text.replace(" ", "") or '"analytics_enabled": false' in text
    assert text.count("vitstudy/") >= 3


# ------------------------------------------------------------------------------------------------- what may be loaded


def test_only_known_checkpoints_may_be_named(vit_folder):
    from hf_vitstudy.space.live import NOT_NAMED, Live, check_live

    assert check_live([str(vit_folder), "microsoft/resnet-50"]) == [str(vit_folder), "microsoft/resnet-50"]
    assert Live().about() == {"state": "absent", "reason": NOT_NAMED, "sides": []}
    with pytest.raises(StudyError, match="expected two live checkpoints or none, got 1: microsoft/resnet-50"):
        check_live(["microsoft/resnet-50"])
    for name in ("evil/model", "../../x", "microsoft/resnet-50/../../evil"):
        with pytest.raises(StudyError, match="is neither a folder here nor one of the checkpoints on the Hub"):
            check_live([name, "microsoft/resnet-50"])


def test_a_checkpoint_that_cannot_be_loaded_is_a_reason(tmp_path, vit_folder, caplog):
    from hf_vitstudy.space.live import FAILED, Live

    made = Live([str(vit_folder), str(tmp_path)])
    made._load()
    assert made.about() == {"state": "absent", "reason": FAILED, "sides": []}
    assert "has no config.json" in caplog.text
    assert str(tmp_path) not in FAILED


def test_a_network_without_a_classifier_is_refused(tmp_path):
    from conftest import save_checkpoint, small_vit

    from hf_vitstudy.space.looking import Eye

    save_checkpoint(small_vit().vit, tmp_path / "trunk")
    with pytest.raises(StudyError, match="trunk has no classifier, so it has no answer to show; name another one"):
        Eye(str(tmp_path / "trunk"))


def test_the_most_urgent_comes_first():
    from hf_vitstudy.space.live import MOST_WAITING, BusyError, Line

    line, gate, order = Line(), threading.Event(), []
    with ThreadPoolExecutor(MOST_WAITING) as people:
        first = people.submit(line.run, 0, gate.wait)
        while line._waiting.qsize() or not line._count:  # until the first is being worked on
            time.sleep(0.001)
        others = []
        for k, urgent in enumerate([2, 1, 2, 0] + [3] * (MOST_WAITING - 5)):
            others.append(people.submit(line.run, urgent, lambda k=k: order.append(k)))
            while line._waiting.qsize() <= k:
                time.sleep(0.001)
        with pytest.raises(BusyError, match="many images are being looked at just now; try again in a few seconds"):
            line.run(0, list)
        gate.set()
        for each in (first, *others):
            each.result(timeout=30)
    assert order[:4] == [3, 1, 0, 2]
    assert order[4:] == list(range(4, MOST_WAITING - 1))
    with pytest.raises(ZeroDivisionError):
        line.run(0, lambda: 1 / 0)
    assert line.run(0, lambda: 7) == 7


# ----------------------------------------------------------------------------------------------------- the whole folder


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_in_the_repository_is_the_one_that_is_pushed(tmp_path):
    made = space_folder(tmp_path / "space")
    assert (made / "app.py").read_bytes() == (ROOT / "spaces" / "compare" / "app.py").read_bytes()
    for name in (CARD, REQUIREMENTS):
        assert (made / name).read_text(encoding="utf-8") == (ROOT / "spaces" / "compare" / name).read_text(
            encoding="utf-8"
        )
    assert (made / DATA / STUDY_FILE).read_bytes() == (default_data() / STUDY_FILE).read_bytes()
    assert (made / DATA / EXAMPLES_FILE).is_file()
    package = {f"hf_vitstudy/{name}" for name in files_below(ROOT / "hf_vitstudy") if "__pycache__" not in name}
    assert files_below(made) == package | {"app.py", CARD, REQUIREMENTS} | {
        f"{DATA}/{name}" for name in (STUDY_FILE, EXAMPLES_FILE, "space.json")
    }


def test_the_default_study_is_small_and_real():
    pages = Bundle(default_data() / STUDY_FILE)
    shown = json.loads(pages.read("study.json"))
    stored = json.loads((ROOT / "docs" / "findings" / "results.json").read_text(encoding="utf-8"))
    assert [each["weights_sha256"] for each in shown["checkpoints"]] == [
        each["weights_sha256"] for each in stored["checkpoints"]
    ]
    assert {each["id"]: each["agreement"]["verdict"] for each in shown["claims"] if "agreement" in each} == {
        each["id"]: each["agreement"]["verdict"] for each in stored["claims"] if "agreement" in each
    }
    assert sum(path.stat().st_size for path in default_data().iterdir()) < 3_500_000


def test_examples_hold_all_that_the_page_asks_for():
    stored = Packed(default_data() / EXAMPLES_FILE)
    index = json.loads(stored.read("index.json"))
    assert len(index["items"]) == 6
    for number, item in enumerate(index["items"]):
        assert item["title"]
        assert item["credit"]
        found = json.loads(stored.read(f"{number}.json"))
        layers = json.loads(stored.read(f"{number}-attention.json"))["attention"]
        cells = found["grid"][0] * found["grid"][1]
        for side, about in enumerate(index["sides"]):
            assert len(layers[side]) == len(about["layers"])
            assert found["first"]["sides"][side].get("attention") in (None, *layers[side])
            assert [len(fields) for fields in found["field"][side]] == [cells] * (
                0 if about["layers"] else len(about["blocks"])
            )
            assert len(found["sweep"][side]) == 17
            whole, first = found["sweep"][side][8]["top"], found["first"]["sides"][side]["top"]
            assert [name for name, _ in whole] == [name for name, _ in first]
            assert [p for _, p in whole] == pytest.approx([p for _, p in first], rel=2e-3)


def test_the_card_pins_what_the_app_was_tested_with():
    import gradio

    about = {
        "study": "org/study@" + "a" * 40,
        "repo": "org/space",
        "live": ["google/vit-base-patch16-224", "microsoft/resnet-50"],
    }
    text = card({"title": 'A "study": <b>', "checkpoints": [{}] * 3}, about)
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["sdk"], head["sdk_version"], head["python_version"]) == ("gradio", gradio.__version__, "3.12")
    assert (head["title"], head["fullWidth"], head["header"]) == ('A "study": <b>', True, "mini")
    assert head["datasets"] == ["org/study"]
    assert head["preload_from_hub"] == head["models"] == ["google/vit-base-patch16-224", "microsoft/resnet-50"]
    assert len(head["short_description"]) <= 60
    assert "org/study@" + "a" * 40 in text


@pytest.mark.parametrize("title", ["a\x7fb", "a\x85b\u2028c", "x\n---\nevil: 1", "\x9b", "\ufeff🔬 é", '"\\'])
@pytest.mark.parametrize("kind", ["gradio", "static"])
def test_no_title_breaks_the_head_of_a_card(kind, title):
    from hf_vitstudy.viewer.export import _card

    study = {"title": title, "checkpoints": [{}] * 2}
    text = card(study, {"study": None, "repo": None, "live": []}) if kind == "gradio" else _card(study)
    assert text.count("---\n") == 2
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["title"], head["sdk"]) == (one_line(title), kind)


def test_requirements_are_those_of_the_package(monkeypatch, tmp_path):
    names = {line.split(">")[0] for line in requirements(live=False).splitlines()}
    assert {"numpy", "xarray", "gradio[mcp]", "huggingface-hub"} <= names
    assert "torch" not in names
    assert {"torch", "transformers", "pillow"} <= {line.split(">")[0] for line in requirements(live=True).splitlines()}
    assert (ROOT / "spaces" / "compare" / "requirements.txt").read_text(encoding="utf-8") == requirements(live=False)
    clone = requirements(live=True)
    told = [*(ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\n")]
    monkeypatch.setattr(space_release, "PACKAGE", tmp_path / "hf_vitstudy")
    base, extras = _project(told)
    monkeypatch.setattr(
        space_release.metadata,
        "requires",
        lambda name: base + [f"{each}; extra == '{extra}'" for extra, rows in extras.items() for each in rows],
    )
    assert requirements(live=True) == clone


def _project(lines: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    import tomllib

    project = tomllib.loads("\n".join(lines))["project"]
    return project["dependencies"], project["optional-dependencies"]


BLOCK = """
import os, socket, sys
look_up = socket.getaddrinfo
def noted(host, *words, **options):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{host}\\n")
    return look_up(host, *words, **options)
socket.getaddrinfo = noted
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "transformers"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
"""
RUN = "import app; print(app.folder_app(app.Path(app.__file__).parent / 'data').launch('127.0.0.1', wait=False), flush=True); import threading; threading.Event().wait()"  # noqa: E501


def test_a_pushed_folder_runs_from_itself_without_torch(small_study, tmp_path):
    """With the Hub out of reach, another study asked for, and live checkpoints that nothing can load."""
    made = space_folder(
        tmp_path / "space", small_study, repo="org/space", live=["google/vit-base-patch16-224", "microsoft/resnet-50"]
    )
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    settings = {
        "PYTHONPATH": f"{tmp_path / 'block'}",
        "SPACE_ID": "org/copy",
        "VITSTUDY_STUDY": "org/elsewhere",
        "ASKED": f"{tmp_path / 'asked'}",
    }
    with serving("-c", RUN, cwd=made, **settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        shown = client.get("/vitstudy/data/study.json").json()
        assert shown["title"] == "A <b>study</b> & more"
        page = client.get("/").text
        assert "org/copy" in page
        assert "org/elsewhere could not be fetched, so the study that came with this Space is shown" in page
        for _ in range(100):
            about = client.get("/vitstudy/live").json()
            if about["state"] != "loading":
                break
            time.sleep(0.1)
        assert about["state"] == "absent"
        assert about["reason"].startswith("torch and transformers are not installed here")
        refused = look(client, encoded(picture()))
        assert (refused.status_code, refused.json()["error"]) == (503, about["reason"])
        assert client.get("/gradio_api/mcp/schema").status_code == 200
    asked = set((tmp_path / "asked").read_text(encoding="utf-8").split("\n")) - {""}
    assert asked
    assert asked <= {"127.0.0.1", "localhost", "0.0.0.0", "None"}


def test_a_static_folder_is_the_exported_page(small_study, tmp_path):
    made = space_folder(tmp_path / "site", small_study, sdk="static")
    assert sorted(path.name for path in made.iterdir()) == ["README.md", "data", "index.html"]


def foreign(folder: Path) -> dict:
    (folder / "mine.txt").write_text("mine")
    return {"out": folder}


def a_file(folder: Path) -> dict:
    (folder / "file").write_text("mine")
    return {"out": folder / "file"}


WRONG_FOLDERS = {
    "another sdk": (
        lambda folder: {"out": folder / "x", "sdk": "docker"},
        "sdk must be one of gradio, static, got 'docker'",
    ),
    "foreign": (foreign, r"holds 'mine\.txt', which is no part of a Space; choose another folder"),
    "a file": (a_file, "is a file, expected a folder for the Space"),
    "no study": (lambda folder: {"out": folder / "x", "sdk": "static"}, "name the study of a static page"),
    "one live": (
        lambda folder: {"out": folder / "x", "live": ["a/b"]},
        "expected two checkpoints on the Hub as org/name, got a/b",
    ),
    "no repository": (lambda folder: {"out": folder / "x", "repo": "../x"}, "a repository is called org/name"),
    "a folder live": (
        lambda folder: {"out": folder / "x", "live": ["/tmp/a", "/tmp/b"]},
        "expected two checkpoints on the Hub",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_wrong_folder_is_said(tmp_path, case):
    make, told = WRONG_FOLDERS[case]
    with pytest.raises(StudyError, match=told):
        space_folder(**make(tmp_path))


def test_a_copy_without_the_default_study_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(space_release, "PACKAGE", tmp_path / "hf_vitstudy")
    with pytest.raises(
        StudyError, match="the default study did not come with this copy; name a study, or run from a clone"
    ):
        default_data()
