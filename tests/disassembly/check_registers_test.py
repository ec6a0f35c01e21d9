"""check_registers.py lets sound loops pass and finds each kind of fault when it is planted."""

import contextlib
import io
import unittest

import check_registers

LOAD, PRODUCT = "tileloadd (%rdx,%rcx,1),%tmm4", "tdpbf16ps %tmm6,%tmm4,%tmm0"


def listing(body, kinds=check_registers.KINDS):
    """A function of each kind, of 2×2 registers, whose loop is `body`."""
    lines = []
    for kind in kinds:
        name = f"void mla::detail::{kind}_in_registers<mla::targets::amx, 2, 2, mla::simd::Bf16Pair>(int)"
        instructions = ["push   %rbx", *body, f"jne    1 <{name}+0x1>", "ret"]
        lines += ["", f"0000000000000000 <{name}>:", *(f"{i:4x}:\t{text}" for i, text in enumerate(instructions))]
    return "\n".join(lines)


class CheckRegisters(unittest.TestCase):
    def wrong(self, *arguments):
        with contextlib.redirect_stdout(io.StringIO()):
            return check_registers.check_listing(listing(*arguments))

    def test_sound_loop_passes(self):
        self.assertEqual(self.wrong([LOAD, PRODUCT] * 4), [])

    def test_faults_are_found(self):
        for message, body in (
            ("4 products and 5 loads", [LOAD, PRODUCT] * 4 + [LOAD]),
            ("3 products and 3 loads", [LOAD, PRODUCT] * 3),
            ("4 products and 4 loads", [LOAD, PRODUCT] * 4 + ["tilestored %tmm0,(%rdx,%rcx,1)"]),
            ("no load between two products", [LOAD, LOAD, PRODUCT, PRODUCT] * 2),
            ("no loop of products", [LOAD]),
        ):
            found = self.wrong(body)
            self.assertTrue(any(message in problem for problem in found), found)

    def test_every_kind_must_be_there(self):
        for left_out in check_registers.KINDS:
            kinds = [kind for kind in check_registers.KINDS if kind != left_out]
            self.assertEqual(self.wrong([LOAD, PRODUCT] * 4, kinds), [f"no function is a {left_out}"])


if __name__ == "__main__":
    unittest.main()
