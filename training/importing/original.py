"""A published ONNX file as wrapping needs it: one image of a known size goes in, one map of known shape is the depth."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, version_converter

from depth_ros.engines import EngineError, one_line
from depth_ros.engines.onnxrt import open_on_cpu
from depth_ros.types import InputError

OLDEST = 13  # opset; see depth_ros.frame_graph
TARGET = 17  # what an older file is converted to
LARGEST = 2**31 - 2**20  # bytes of a file that holds its weights
FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
ARITHMETIC = {"Sub", "Add", "Mul", "Div"}


@dataclass(frozen=True)
class Original:
    """A network whose only input is an image (N, 3, h, w) or (N, h, w, 3)."""

    file: Path
    model: onnx.ModelProto
    image: str  # name of the input
    last: bool  # colours are the last axis, not the second
    half: bool  # the image is float16
    width: int  # [px]
    height: int  # [px]
    one_by_one: bool  # takes a single image
    output: str = ""  # name of the map
    shape: tuple[int, ...] = ()  # of the map of one image

    @property
    def normalises(self) -> bool:
        """Whether it begins with arithmetic on the colours, so that mean and std are inside."""
        readers = [node for node in self.model.graph.node if self.image in node.input and node.op_type != "Shape"]
        return bool(readers) and all(node.op_type in ARITHMETIC for node in readers)

    @property
    def channel_axis(self) -> int | None:
        """Of a map of four axes the one that is no row or column: the second, unless only the last is 1. None of fewer axes."""
        if len(self.shape) < 4:
            return None
        return 3 if self.shape[3] == 1 and self.shape[1] != 1 else 1

    @property
    def channels(self) -> int:
        """Of its map."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    @property
    def map_size(self) -> tuple[int, int]:
        """Rows and columns of its map."""
        rows, columns = [size for axis, size in enumerate(self.shape) if axis != self.channel_axis][-2:]
        return rows, columns

    @property
    def rounds(self) -> bool:
        """Whether it calculates in float16, where the same sum in another order is another number."""
        return self.half or any(tensor.data_type == TensorProto.FLOAT16 for tensor in self.model.graph.initializer)

    def run(self, batches: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Its map for each batch, in its own type and layout as those are. Raises InputError."""
        try:
            with closing(open_on_cpu(self.model.SerializeToString(), str(self.file))) as runner:
                return [runner.run({self.image: batch}, [self.output])[self.output] for batch in batches]
        except EngineError as error:
            raise InputError(f"{error}; expected a network that ONNX Runtime runs at {self.width}x{self.height}") from error

    def blank(self, count: int) -> NDArray[Any]:
        """Black images as it takes them."""
        size = (self.height, self.width)
        shape = (count, *size, 3) if self.last else (count, 3, *size)
        return np.zeros(shape, np.float16 if self.half else np.float32)


def read_original(
    file: Path,
    size: tuple[int, int] | None = None,
    output: str = "",
    known: tuple[str, ...] = (),
    focal: tuple[float, float] | None = None,
) -> Original:
    """Read a file and find its image and its map of depth. Raises InputError, which says what was found and what to do.

    `size` (width, height) is for a file that leaves it open; of several outputs the one called `output`, or else one of
    `known`, is the map. A second input is the intrinsics: those of `focal` (fx, fy) [px] with the centre in the middle.
    """
    model = _read(file)
    others = {i.name for i in model.graph.initializer}  # old files list their weights among the inputs
    inputs = [value for value in model.graph.input if value.name not in others]
    image, last = _find_image(file, inputs)
    found = _fixed(file, model, image, last, size)
    for value in inputs:
        if value is not image:
            model.graph.initializer.append(_intrinsics(found, value, focal))
    del model.graph.input[:], model.graph.value_info[:]  # sizes that were open until now
    model.graph.input.append(image)
    return _with_map(found, output, known)


def _read(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(file)  # with the weights of files beside it
        onnx.checker.check_model(str(file))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or file}: missing; copy the ONNX file with all files of weights beside it") from error
    except Exception as error:  # protobuf's and the checker's have no class in common
        raise InputError(f"{file}: not a readable ONNX file: {one_line(error)}") from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if model.ByteSize() > LARGEST:
        raise InputError(f"{file}: {model.ByteSize() / 2**30:.1f} GiB of weights; a bundle's graph is one file below 2 GiB")
    foreign = {node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign:
        raise InputError(
            f"{file}: has operations of {', '.join(sorted(foreign))}, which one runtime alone knows; expected the file before "
            "it was optimised for that"
        )
    return _raised(file, model)


def _raised(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset OLDEST or later, and in an IR that keeps weights apart from inputs."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OLDEST:
        try:
            model = version_converter.convert_version(model, TARGET)
        except Exception as error:  # its own errors have no class in common
            raise InputError(
                f"{file}: ONNX opset {opset}, which cannot be converted to {TARGET} ({one_line(error)}); export the network "
                f"again with opset {OLDEST} or later"
            ) from error
    model.ir_version = max(model.ir_version, 8)
    return model


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Its sizes, 0 where open."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _describe(values: Any) -> str:
    return ", ".join(f"'{v.name}' {TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower()} {_shape(v)}" for v in values)


def _find_image(file: Path, inputs: list[onnx.ValueInfoProto]) -> tuple[onnx.ValueInfoProto, bool]:
    """The input that is an image, and whether its colours are the last axis."""
    images = [value for value in inputs if len(_shape(value)) == 4 and 3 in (_shape(value)[1], _shape(value)[3])]
    if len(images) != 1 or images[0].type.tensor_type.elem_type not in FLOATS:
        raise InputError(
            f"{file}: its inputs are {_describe(inputs) or 'none'} (0: open); expected one image, float32 or float16, "
            "(N, 3, h, w) or (N, h, w, 3)"
        )
    return images[0], _shape(images[0])[1] != 3


def _intrinsics(original: Original, value: onnx.ValueInfoProto, focal: tuple[float, float] | None) -> onnx.TensorProto:
    """A constant in place of that input. Raises InputError for one that is no intrinsics, or without a focal length."""
    shape, kind = _shape(value), value.type.tensor_type.elem_type
    if shape[-2:] != [3, 3] or len(shape) > 3 or kind not in FLOATS:
        raise InputError(
            f"{original.file}: besides the image it takes {_describe([value])} (0: open); expected no other input than "
            "intrinsics (N, 3, 3): export the network without it"
        )
    if focal is None:
        raise InputError(f"{original.file}: takes intrinsics as '{value.name}'; give them: --camera FX,FY at the network's size")
    K = np.array([[focal[0], 0, original.width / 2], [0, focal[1], original.height / 2], [0, 0, 1]])
    return numpy_helper.from_array(K.reshape([1] * (len(shape) - 2) + [3, 3]).astype(FLOATS[kind]), value.name)


def _fixed(file: Path, model: onnx.ModelProto, image: onnx.ValueInfoProto, last: bool, size: tuple[int, int] | None) -> Original:
    """Fix the image's size in place. Raises InputError for one that is neither stated nor given, or both and not the same."""
    shape = _shape(image)
    rows = 1 if last else 2
    height, width = shape[rows : rows + 2]
    if size is None and not (width and height):
        raise InputError(f"{file}: leaves its size open ({_describe([image])}); expected --size WxH")
    for found, asked, name in zip((width, height), size or (width, height), ("width", "height"), strict=True):
        if found not in (0, asked):
            raise InputError(f"{file}: its {name} is {found} px, and cannot be the {asked} of --size; leave that out")
    width, height = size or (width, height)
    if shape[0] > 1:
        raise InputError(f"{file}: takes {shape[0]} images at once; expected 1, or an open number: export it again")
    dims = image.type.tensor_type.shape.dim
    dims[rows].dim_value, dims[rows + 1].dim_value, dims[3 if last else 1].dim_value = height, width, 3
    half = image.type.tensor_type.elem_type == TensorProto.FLOAT16
    return Original(file, model, image.name, last, half, width, height, one_by_one=shape[0] == 1)


def _with_map(original: Original, output: str, known: tuple[str, ...]) -> Original:
    """The original with its output and its batch, as it answers to black images."""
    file, outputs = original.file, [value.name for value in original.model.graph.output]
    if output and output not in outputs:
        raise InputError(f"{file}: has no output '{output}'; expected one of {', '.join(outputs)}")
    chosen = [output] if output else [name for name in known if name in outputs][:1] or outputs
    if len(chosen) > 1:
        raise InputError(f"{file}: has the outputs {_describe(original.model.graph.output)}; choose one: --output NAME")
    found = replace(original, output=chosen[0])
    shape = found.run([found.blank(1)])[0].shape
    found = replace(found, shape=shape)
    if not 2 <= len(shape) <= 4 or 1 in found.map_size:  # a class's scores are (N, classes)
        raise InputError(f"{file}: output '{chosen[0]}' is {shape}; expected a map (N, h, w), (N, 1, h, w) or (N, h, w, 1)")
    return replace(found, one_by_one=found.one_by_one or len(shape) == 2 or not _takes_two(found))


def _takes_two(original: Original) -> bool:
    """Whether an open batch really is: some exports have a single image in their reshapes."""
    try:
        return len(original.run([original.blank(2)])[0]) == 2
    except InputError:
        return False
