"""check_includes.py lets a sound tree pass and finds each kind of violation when it is planted."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import check_includes

SOUND = {
    "core/compiler.hpp": "#if defined(__AVX2__)\n#endif",
    "core/types.hpp": '#include <cmath>\n#include "mla/core/compiler.hpp"',
    "core/eigen_executor.hpp": '#include <unsupported/Eigen/CXX11/ThreadPool>\n#include "mla/core/types.hpp"',
    "config.hpp": '#include "mla/core/types.hpp"',
    "simd/batch.hpp": '#include <immintrin.h>\n#include <xsimd/xsimd.hpp>\n#include "mla/core/types.hpp"',
    "math/rope.hpp": '#include "mla/config.hpp"\n#include "mla/simd/batch.hpp"',
    "kernels/decode.hpp": '#include "mla/math/rope.hpp"',
    "attention.hpp": '#include <Eigen/Core>\n#include "mla/kernels/decode.hpp"',
    "reference/layer.hpp": '#include "mla/config.hpp"',
    "io/safetensors.hpp": '#include <nlohmann/json.hpp>\n#include "mla/core/types.hpp"',
    "mla.hpp": '#include "mla/attention.hpp"\n#include "mla/core/eigen_executor.hpp"',
}


def in_tree(headers, check):
    """What `check` says of a folder that holds `headers` and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in headers.items():
            path = Path(folder, "mla", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#pragma once\n" + text + "\n", encoding="utf-8")
        return check(Path(folder))


def exit_status(folder):
    return subprocess.run([sys.executable, check_includes.__file__, folder], stdout=subprocess.DEVNULL, check=False).returncode


class CheckIncludes(unittest.TestCase):
    def rejects(self, header, text, message):
        """In the sound tree with `text` added to `header`, a violation of that header with `message` is found."""
        found = in_tree(SOUND | {header: SOUND.get(header, "") + "\n" + text}, check_includes.violations)
        named = [violation for violation in found if violation.startswith(f"mla/{header}: ")]
        self.assertTrue(any(message in violation for violation in named), found)

    def test_sound_tree_passes(self):
        self.assertEqual(in_tree(SOUND, check_includes.violations), [])
        self.assertEqual(in_tree(SOUND, exit_status), 0)

    def test_violation_fails_the_run(self):
        self.assertEqual(in_tree(SOUND | {"misc/helpers.hpp": ""}, exit_status), 1)

    def test_empty_tree_fails(self):
        self.assertNotEqual(in_tree({}, check_includes.violations), [])

    def test_arrow_that_runs_back(self):
        self.rejects("core/types.hpp", '#include "mla/config.hpp"', "core may not use config")
        self.rejects("math/norm.hpp", '#include "mla/linear/gemm.hpp"', "not one of our headers")
        self.rejects("simd/exp.hpp", '#include "mla/math/rope.hpp"', "simd may not use math")
        self.rejects("math/rope.hpp", '  #  include "mla/kernels/decode.hpp"', "math may not use kernels")

    def test_oracle_that_shares_code_with_what_it_judges(self):
        self.rejects("reference/layer.hpp", '#include "mla/math/rope.hpp"', "reference may not use math")

    def test_circle(self):
        self.rejects("core/types.hpp", '#include "mla/core/eigen_executor.hpp"', "leads back to it")
        self.rejects("core/types.hpp", '#include "mla/core/types.hpp"', "leads back to it")

    def test_unknown_folder(self):
        self.rejects("utilities/misc.hpp", "", "no known part")

    def test_unknown_header_beside_the_folders(self):
        self.rejects("helpers.hpp", "", "no known part")

    def test_eigen_below_the_layer(self):
        self.rejects("kernels/decode.hpp", "#include <Eigen/Core>", "reaches Eigen/Core")
        self.rejects("kernels/decode.hpp", '#include "mla/core/eigen_executor.hpp"', "reaches unsupported/Eigen")

    def test_raw_intrinsics_outside_simd(self):
        for intrinsics in ("immintrin.h", "x86intrin.h", "arm_neon.h"):
            self.rejects("kernels/decode.hpp", f"#include <{intrinsics}>", "only")

    def test_xsimd_outside_simd(self):
        self.rejects("kernels/decode.hpp", "#include <xsimd/xsimd.hpp>", "belongs in simd only")

    def test_formats_know_nothing_of_what_uses_them(self):
        self.rejects("formats/bf16.hpp", '#include "mla/kernels/decode.hpp"', "formats may not use kernels")

    def test_header_without_the_tag_of_the_instruction_set(self):
        self.rejects("simd/word.hpp", "#include <cstdint>", "does not reach mla/core/compiler.hpp")

    def test_compiler_macro_outside_its_header(self):
        for macro in ("__AVX512F__", "__GNUC__", "_MSC_VER", "__FMA__"):
            self.rejects("simd/batch.hpp", f"#if defined({macro})\n#endif", f"asks for {macro}")

    def test_kernels_that_name_a_format_or_an_instruction(self):
        for name in ("bfloat16", "fp8", "int8", "_mm512_add_ps", "__m256", "avx512_bf16"):
            self.rejects("kernels/decode.hpp", f"using Spoilt = {name};", f"names {name}")
        comment = {"kernels/decode.hpp": SOUND["kernels/decode.hpp"] + "\n// of bf16 by AVX-512"}
        self.assertEqual(in_tree(SOUND | comment, check_includes.violations), [])

    def test_one_floor_too_many(self):
        def tower(height):
            return {f"kernels/engine/f{i}.hpp": f'#include "mla/kernels/engine/f{i - 1}.hpp"' for i in range(1, height)} | {
                "kernels/engine/f0.hpp": '#include "mla/core/types.hpp"'
            }

        self.assertEqual(in_tree(SOUND | tower(5), check_includes.violations), [])
        found = in_tree(SOUND | tower(6), check_includes.violations)
        self.assertEqual(found, ["mla/kernels/engine/f5.hpp: stands on floor 6 of its folder, which may have 5"])

    def test_json_outside_io(self):
        self.rejects("config.hpp", "#include <nlohmann/json.hpp>", "reaches nlohmann/json.hpp")

    def test_relative_include(self):
        self.rejects("core/types.hpp", '#include "errors.hpp"', 'included as "mla/..."')
        self.rejects("config.hpp", "#include <mla/core/types.hpp>", "not one of our headers")


if __name__ == "__main__":
    unittest.main()
