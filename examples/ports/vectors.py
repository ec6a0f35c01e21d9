"""Conformance vectors in Python: reads those that mla_vectors writes, and writes results for it to check.

Needs NumPy alone. A vector's tensors and metadata are described in mla/testing/conformance/vectors.hpp.
"""

import json
import pathlib
import struct

import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}


def read(path):
    """The tensors of a safetensors file by name, and what it says of itself."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header.pop("__metadata__")["mla_vector"])
    tensors = {}
    for name, tensor in header.items():
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return tensors, about


def write(path, tensors):
    """A safetensors file of arrays of float32 or float64."""
    names = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32"}
    header, data = {}, b""
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def row_numbers(vector, about, request):
    """Where the rows of a request's tokens lie in `memory`, in the order of the tokens."""
    tokens = np.arange(vector["lengths"][request])
    size = about["page_size"]
    if size == 0:
        return vector["first_rows"][request] + tokens
    return vector["block_tables"][request][tokens // size].astype(np.int64) * size + tokens % size


def visible(vector, about, request):
    """[T, L]: whether a query of a request attends to a token, by the causal rule, a tree's mask or a selection."""
    first, end = vector["query_begin"][request : request + 2]
    queries, length = int(end - first), int(vector["lengths"][request])
    mask = np.arange(length)[None] <= np.arange(queries)[:, None] + (length - queries)
    tree = vector.get(f"tree_{request}")
    if tree is not None and queries <= length:
        mask[:, length - queries :] = tree != 0
    if "selection" in vector:
        slots = row_numbers(vector, about, request) if about["page_size"] else np.arange(length)
        mask = (vector["selection"][first:end][:, :, None] == slots).any(axis=1)
    return mask
