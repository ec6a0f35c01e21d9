"""What mla_vectors prints, writes and exits with, for results that are right, wrong, and no results at all.

usage: mla_vectors_test.py MLA_VECTORS
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

TOOL = sys.argv.pop(1)


def run(*arguments):
    command = [TOOL, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def read(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def answer(vector, result, change=lambda values: values):
    """The vector's own answer as a result, after `change` of the list of outputs."""
    header, data = read(vector)
    tensors = {}
    for name in ("out", "lse"):
        begin, end = header["expected_" + name]["data_offsets"]
        values = list(struct.unpack(f"<{(end - begin) // 8}d", data[begin:end]))
        tensors[name] = (header["expected_" + name]["shape"], change(values) if name == "out" else values)
    offset, listed, bytes_ = 0, {}, b""
    for name, (shape, values) in tensors.items():
        bytes_ += struct.pack(f"<{len(values)}d", *values)
        listed[name] = {"dtype": "F64", "shape": shape, "data_offsets": [offset, len(bytes_)]}
        offset = len(bytes_)
    text = json.dumps(listed).encode()
    result.write_bytes(struct.pack("<Q", len(text)) + text + bytes_)


class VectorsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.vectors = pathlib.Path(self.folder.name, "vectors")
        self.results = pathlib.Path(self.folder.name, "results")
        self.results.mkdir()

    def write(self, *options):
        found = run("write", self.vectors, *options)
        self.assertEqual(found.returncode, 0, found.stderr)
        return sorted(self.vectors.glob("*.safetensors"))

    def test_writes_what_it_is_asked_for(self):
        named = [path.name for path in self.write("--case", "sinks", "--kind", "bf16")]
        pages = ["", ".pages_1", ".pages_16", ".pages_64"]
        self.assertEqual(named, sorted(f"sinks.bf16{page}.safetensors" for page in pages))

    def test_right_answers_pass(self):
        for vector in self.write("--case", "ragged_batch"):
            answer(vector, self.results / vector.name)
        found = run("check", self.results, "--json", self.results / "report.json")
        self.assertEqual(found.returncode, 0, found.stdout + found.stderr)
        self.assertIn("16 of 16 passed", found.stdout)
        report = json.loads((self.results / "report.json").read_text())
        self.assertEqual((report["schema"], report["passed"], report["failed"]), (1, 16, 0))

    def test_a_wrong_answer_fails_and_is_described(self):
        (vector,) = self.write("--case", "sinks", "--kind", "fp32", "--pages", "16")

        def spoil(values):
            return [1.5 * value for value in values[:1]] + values[1:]

        answer(vector, self.results / vector.name, spoil)
        found = run("check", self.results, "--json", self.results / "report.json")
        self.assertEqual(found.returncode, 1)
        self.assertIn("worst: query 0, head 0, value 0", found.stdout)
        (result,) = json.loads((self.results / "report.json").read_text())["results"]
        self.assertEqual((result["status"], result["wrong"]), ("failed", 1))
        self.assertEqual((result["worst"]["query"], result["worst"]["head"], result["worst"]["value"]), (0, 0, 0))

    def test_what_is_no_result_is_an_error_of_that_file(self):
        (vector,) = self.write("--case", "sinks", "--kind", "fp32", "--pages", "0")
        answer(vector, self.results / vector.name)
        answer(vector, self.results / "no_such_case.fp32.safetensors")
        (self.results / "flat.fp32.safetensors").write_bytes(b"not a safetensors file")
        found = run("check", self.results, "--json", self.results / "report.json")
        self.assertEqual(found.returncode, 1)
        self.assertIn("1 of 3 passed", found.stdout)
        self.assertIn("no_such_case.fp32.safetensors: no vector is called that", found.stdout)
        statuses = [result["status"] for result in json.loads((self.results / "report.json").read_text())["results"]]
        self.assertEqual(sorted(statuses), ["error", "error", "passed"])

    def test_a_command_line_that_asks_for_nothing_is_explained(self):
        for arguments, message in (
            ((), "is missing"),
            (("list", "folder"), "'list' is neither write nor check"),
            (("write", self.vectors, "--tier", "large"), "--tier is large, must be one of small, standard, stress"),
            (("write", self.vectors, "--case", "none"), "no vector is of that case"),
            (("write", self.vectors, "--lse", "base2"), "--lse is no option of write"),
            (("check", self.results, "--lse"), "--lse lacks its value"),
            (("check", self.results), "holds no results"),
            (("check", self.results / "missing"), "missing"),
        ):
            found = run(*arguments)
            self.assertEqual(found.returncode, 2, arguments)
            self.assertIn(message, found.stderr)


if __name__ == "__main__":
    unittest.main()
