"""Hostile and damaged checkpoints are refused with one line, and little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from support.memory import at_most
from torch import Tensor

from capecam.errors import CheckpointError, SettingsError
from capecam.model.checkpoint import read_weights
from capecam.model.model import load_model
from capecam.settings import ModelSettings

STATE = {"encoder.weight": torch.arange(24.0).view(2, 3, 4), "bias": torch.ones(5)}


def saved(state: object, path: Path, **options) -> Path:
    torch.save(state, path, **options)
    return path


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused; it names the file."""
    with pytest.raises(CheckpointError) as error:
        read_weights(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pickled(path: Path, body: bytes, **storages: bytes) -> Path:
    """Write a zip as torch does, around opcodes written by hand."""
    members = {f"a/data/{key.removeprefix('s')}": value for key, value in storages.items()}
    return zipped(path, {"a/data.pkl": b"\x80\x02" + body + b".", "a/version": b"3", **members})


def call(name: str, arguments: bytes) -> bytes:
    module, function = name.rsplit(".", 1)
    return f"c{module}\n{function}\n".encode() + arguments + b"R"


def tensor(size: bytes = b"K\x04", shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85",
           offset: bytes = b"K\x00", storage: str = "torch FloatStorage",
           key: bytes = b"X\x01\0\0\x000") -> bytes:  # fmt: skip
    """Describe one tensor ``w`` in the storage 0."""
    module, kind = storage.split()
    reference = b"(X\x07\0\0\0storage" + f"c{module}\n{kind}\n".encode()
    reference += key + b"X\x03\0\0\0cpu" + size + b"tQ"
    arguments = b"(" + reference + offset + shape + stride + b"\x89}t"
    return b"}X\x01\0\0\0w" + call("torch._utils._rebuild_tensor_v2", arguments) + b"s"


def long(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


@pytest.mark.parametrize("new", [True, False])
def test_tensors_are_what_torch_saved_in_whatever_wrapping(tmp_path: Path, *, new: bool) -> None:
    turned = torch.arange(12.0).view(3, 4).t()
    state = OrderedDict(
        plain=turned, part=torch.arange(9.0)[3:7], tied=turned,
        parameter=torch.nn.Parameter(torch.rand(2, 2)), half=torch.rand(3).half(),
        brain=torch.rand(3).bfloat16(), double=torch.rand(3).double(), count=torch.tensor(7),
        nothing=torch.empty(0, 3),
    )  # fmt: skip
    content = {
        "state_dict": state, "epoch": 3, "lr": 1e-3, "hyper_parameters": Namespace(a=Path("b")),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(2, dtype=torch.complex64)}}}],
        "callbacks": {"ModelCheckpoint{'monitor': 'iou'}": {"best_model_score": torch.tensor(0.9)}},
    }  # fmt: skip
    path = saved(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
    found = read_weights(path).tensors
    assert found.keys() == state.keys()
    for key, expected in state.items():
        assert found[key].dtype == expected.dtype
        assert torch.equal(found[key], expected), key


def test_reading_is_lazy_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = saved({"w": torch.zeros(1 << 24)}, tmp_path / "a.pt")
    before = path.read_bytes()
    read_weights(path).tensors["w"].fill_(1)
    assert path.read_bytes() == before


def test_flipped_bits_are_detected(tmp_path: Path) -> None:
    path = saved(STATE, tmp_path / "a.pt")
    whole = path.read_bytes()
    at = whole.index(STATE["encoder.weight"].numpy().tobytes()) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert "data/0 differs from its checksum" in refusal(path)


PICKLES: dict[str, tuple[bytes, str]] = {
    "memory by a call": (call("builtins.bytearray", long(10**12) + b"\x85"), "expected a state"),
    "memory in the memo": (b"}r\xff\xff\xff\xff", "no tensors"),
    "entries by one list in many calls": (
        b"](" + b"".join(b"X\x04\0\0\0%04dN\x86" % n for n in range(9999)) + b"e\x85q\0("
        + b"ccollections\nOrderedDict\nh\0R" * 100_000 + b"l", "more entries of dicts"),
    "a long name in many places": (
        b"X\x05\0\0\0torchq\0X" + struct.pack("<I", 2_000_007) + b"a" * 2_000_000
        + b"Storageq\1(" + b"h\0h\1\x93" * 300_000 + b"l", "wants to run torch.aaa"),
    "a call of getattr": (call("builtins.getattr", b"}\x85"), "wants to run builtins.getattr"),
    "torch's own loader": (call("torch.load", b"}\x85"), "wants to run torch.load"),
    "eval in old spelling": (call("__builtin__.eval", b"}\x85"), "wants to run builtins.eval"),
    "an old instance": (b"(cos\nsystem\n(ios\nsystem\n", "wants to run os.system"),
    "an extension": (b"\x82\x01", "not a PyTorch checkpoint"),
    "deep nesting": (b"}" + b"\x85" * 300_000, "holds a tuple"),
    "a deep key": (b"}}" + b"\x85" * 300_000 + b"}s", "no tensors"),
    "marks without end": (b"(" * 300_000, "damaged"),
    "a size that lies": (b"X\xff\xff\xff\x7fab", "damaged"),
    "a number of a million digits": (b"I" + b"9" * 1_000_000 + b"\n", "damaged"),
    "an empty stack": (b"s", "damaged"),
    "too many numbers": (tensor(size=long(10**12)), "needs 1000000000000 numbers"),
    "a shape beyond its storage": (tensor(shape=long(10**9) + b"\x85"), "more than the 4 numbers"),
    "one number a million times": (
        tensor(shape=long(10**6) + b"\x85", stride=b"K\x00\x85"), "more than the 4 numbers"),
    "a stride beyond": (tensor(stride=long(10**6) + b"\x85"), "more than the 4 numbers"),
    "an offset beyond": (tensor(offset=b"K\x01"), "more than the 4 numbers"),
    "an offset before": (tensor(offset=long(-1)), "that cannot be"),
    "a negative size": (tensor(shape=long(-4) + b"\x85"), "that cannot be"),
    "a size that is a text": (tensor(shape=b"X\x01\0\0\0a\x85"), "that cannot be"),
    "sizes without strides": (tensor(stride=b")"), "1 sizes and 0 strides"),
    "a name of terabytes": (tensor(key=b")" + b"2\x86" * 40), "named by no text"),
    "complex numbers": (tensor(storage="torch ComplexFloatStorage"), "w is of ComplexFloats"),
    "a quantised tensor": (
        b"}X\x01\0\0\0w" + call("torch._utils._rebuild_qtensor", b")") + b"s", "quantised"),
    "a sparse tensor": (
        b"}X\x01\0\0\0w" + call("torch._utils._rebuild_sparse_tensor", b")") + b"s", "sparse"),
    "a tensor of nothing": (
        b"}X\x01\0\0\0w" + call("torch._utils._rebuild_tensor_v2", b")") + b"s", "cannot be read"),
    "a list": (b"]", "holds a list"),
}  # fmt: skip


@pytest.mark.parametrize("attack", PICKLES)
def test_a_hostile_pickle_is_refused_at_once(tmp_path: Path, attack: str) -> None:
    body, message = PICKLES[attack]
    path = pickled(tmp_path / "a.ckpt", body, s0=bytes(16))
    started = time.process_time()
    with at_most(megabytes=1000):
        assert message in refusal(path)
    assert time.process_time() - started < 10


def test_an_attack_written_by_hand_would_load_if_it_were_honest(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.ckpt", tensor(), s0=torch.arange(4.0).numpy().tobytes())
    assert read_weights(path).tensors["w"].tolist() == [0, 1, 2, 3]
    assert torch.load(path)["w"].tolist() == [0, 1, 2, 3]


def _lying(path: Path, **fields: int) -> Path:
    """Change fields of the last member in the directory of a good archive."""
    whole = bytearray(saved(STATE, path).read_bytes())
    at = whole.rindex(b"PK\1\2")
    for place, value in fields.items():
        struct.pack_into("<I", whole, at + int(place[1:]), value)
    path.write_bytes(whole)
    return path


def _twice(path: Path) -> Path:
    whole = zipped(path, {"a/data.pkl": b"x", "a/data.pk2": b"y"}).read_bytes()
    path.write_bytes(whole.replace(b"a/data.pk2", b"a/data.pkl"))
    return path


def _script(path: Path) -> Path:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    return path


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def _st(header: dict, data: bytes = bytes(8)) -> bytes:
    """Make a safetensors file with a header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a deflated member": (
        lambda p: zipped(p, {"a/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED), "is compressed"),
    "a member that lies about its size": (lambda p: _lying(p, _20=10**9, _24=10**9), "beyond the"),
    "a member on top of another": (lambda p: _lying(p, _42=0), "overlaps another"),
    "a member twice": (_twice, "holds 'a/data.pkl' twice"),
    "a zip of something else": (lambda p: zipped(p, {"a.txt": b"x"}), "no data.pkl"),
    "a zip without an end": (lambda p: _bytes(saved(STATE, p).read_bytes()[:-30])(p), "whole zip"),
    "TorchScript": (_script, "TorchScript"),
    "HDF5": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "a web page": (_bytes(b"\n<!DOCTYPE html><html>"), "download the file again"),
    "a pointer of LFS": (_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "ONNX": (_bytes(b"\x08\x07\x12\x07pytorch" + bytes(99)), "perhaps ONNX"),
    "gzip": (_bytes(b"\x1f\x8b\x08" + bytes(99)), "unpack it first"),
    "tar": (_bytes(b"a" + bytes(256) + b"ustar" + bytes(999)), "tar archive"),
    "a pickle of something else": (_bytes(pickle.dumps({"a": 1})), "a pickle of something else"),
    "a safetensors header that lies": (_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "its header"),
    "a safetensors header that is none": (_bytes(struct.pack("<Q", 4) + b"{{{{"), "damaged"),
    "a safetensors hole": (
        _bytes(_st({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})), "damaged"),
    "a safetensors dtype": (
        _bytes(_st({"w": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}})), "damaged"),
    "a safetensors shape": (
        _bytes(_st({"w": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]}})),
        "damaged"),
    "8-bit floats": (
        lambda p: (save_file({"w": torch.ones(8).to(torch.float8_e4m3fn)}, p), p)[1], "float8"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", FILES)
def test_other_formats_are_recognised_by_their_content(tmp_path: Path, kind: str) -> None:
    make, message = FILES[kind]
    assert message in refusal(make(tmp_path / "a.ckpt"))


def test_a_directory_without_end_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 10**9, 4, 0)
    path.write_bytes(b"PK\3\4" + end)
    assert "not a whole zip" in refusal(path)
    size = 200_000_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0)
    with path.open("r+b") as file:  # the directory is there, but for the most part a hole
        file.seek(4 + size)
        file.write(end)
    with at_most(megabytes=100):
        assert f"zip directory says that it has {size} bytes" in refusal(path)


def test_pipes_devices_and_folders_are_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "is no ordinary file" in refusal(path)
    (tmp_path / "folder").mkdir()
    assert "not a saved model" in refusal(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "does not exist" in refusal(tmp_path / "link")
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 1 << 40)
    assert "1100 GB" in refusal(huge)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_missing_permission_is_reported(tmp_path: Path) -> None:
    path = saved(STATE, tmp_path / "a.pt")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


UNET = ModelSettings(architecture="Unet", encoder="resnet18")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "unet"
    smp.Unet("resnet18", encoder_weights=None, classes=4).save_pretrained(path)
    return path


@pytest.fixture
def configured(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the saved folder with other settings."""

    def make(text: str = "", **changed: object) -> Path:
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
        tree = json.loads((folder / "config.json").read_text()) | changed
        (tmp_path / "config.json").write_text(text or json.dumps(tree))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder_name": "tu-hf-hub:timm/resnet18"}, "is no name that"),
        ({"encoder_name": "tu-local-dir:/etc"}, "is no name that"),
        ({"encoder_name": "tu-nothing_like_it"}, "cannot build Unet"),
        ({"encoder_name": ["resnet18"]}, "is no name that"),
        ({"checkpoint_path": "/etc/passwd"}, "the option 'checkpoint_path' would lead"),
        ({"pretrained_cfg": {"url": "http://x"}}, "the option 'pretrained_cfg' would lead"),
        ({"decoder_channels": [60_000] * 5}, "far larger than"),
        ({"decoder_channels": [10**9] * 5}, "no number may be above"),
        ({"decoder_channels": [10**400] * 5}, "no number may be above"),
        ({"encoder_depth": 10**9}, "no number may be above"),
        ({"decoder_channels": "many"}, "cannot build"),
        ({"_model_class": "Module"}, "unknown architecture"),
        ({"_model_class": {"a": 1}}, "unknown architecture"),
        ({"text": '{"a": NaN}'}, "NaN is no number"),
        ({"text": "[" * 100_000}, "not valid JSON"),
        ({"text": "[]"}, "must hold a network's arguments"),
        ({"text": f'{{"a": {"9" * 10_000}}}'}, "not valid JSON"),
        ({"text": " " * 2_000_000}, "at most 1 MB"),
    ],
)
def test_a_hostile_config_json_is_refused(
    configured: Callable[..., Path], changed: dict, message: str
) -> None:
    with pytest.raises((CheckpointError, SettingsError), match=message) as error:
        load_model(configured(**changed), ModelSettings())
    assert len(str(error.value)) < 1000


def test_upsampling_that_does_not_fit_is_found(tmp_path: Path) -> None:
    network = smp.FPN("resnet18", encoder_weights=None, classes=4)
    network.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(tree | {"upsampling": 8}))
    with pytest.raises(CheckpointError, match="makes 256 x 256 pixels of 128 x 128"):
        load_model(tmp_path, ModelSettings())


def test_options_of_the_configuration_are_limited_as_well(folder: Path) -> None:
    wide = UNET.model_copy(update={"options": {"decoder_channels": [50_000] * 5}})
    with pytest.raises(CheckpointError, match="far larger than the"):
        load_model(folder / "model.safetensors", wide)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("encoder.conv1.weight", lambda w: w * torch.nan, "holds NaN or infinite numbers"),
        ("encoder.conv1.weight", lambda w: w.double() + 1e300, "holds NaN or infinite numbers"),
        ("encoder.conv1.weight", lambda w: w.to(torch.int8), "holds torch.int8, but the network"),
        ("encoder.bn1.running_var", lambda w: w - 5, "holds variances below 0"),
    ],
)
def test_weights_that_are_not_finite_are_named(
    folder: Path, tmp_path: Path, key: str, change: Callable[[Tensor], Tensor], message: str
) -> None:
    state = read_weights(folder).tensors
    path = saved({**state, key: change(state[key])}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"{key} {message}"):
        load_model(path, UNET)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean", [torch.nan] * 3, "must be finite"),
        ("std", [0.0, 1, 1], "must be above 0"),
        ("std", [-1.0, 1, 1], "must be above 0"),
        ("std", [torch.inf] * 3, "must be finite"),
        ("mean", [0.0] * 4, "expected 3 values"),
    ],
)
def test_an_impossible_normalisation_is_refused(
    folder: Path, tmp_path: Path, name: str, value: list[float], message: str
) -> None:
    state = read_weights(folder).tensors | {"mean": torch.zeros(3), "std": torch.ones(3)}
    path = saved({**state, name: torch.tensor(value)}, tmp_path / "a.pt")
    with pytest.raises((CheckpointError, SettingsError), match=message):
        load_model(path, UNET)


def test_floats_of_any_width_become_float32(folder: Path, tmp_path: Path) -> None:
    state = read_weights(folder).tensors
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        other = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        network = load_model(str(saved(other, tmp_path / "a.pt")), UNET).network
        found = network.state_dict()["encoder.conv1.weight"]
        assert found.dtype == torch.float32
        assert torch.equal(found, state["encoder.conv1.weight"].to(dtype).float())
