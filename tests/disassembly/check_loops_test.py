"""check_loops.py lets sound loops pass and finds each kind of fault when it is planted."""

import contextlib
import io
import unittest

import check_loops

NAME = "void mla::isa::detail::score_tile<mla::isa::targets::avx2, mla::isa::operands::Plain<float>, 2, 1, float>(float const*)"
PAIRS = "void mla::isa::detail::score_tile<mla::isa::targets::avx512_bf16, mla::isa::operands::Bf16Pairs, 2, 1, float>(float const*)"
PROLOGUE = ["push   %rbx", "mov    %rdi,%rax"]
LOAD = "vmovups (%rbp),%ymm2"
BROADCAST = "vbroadcastss 0x4(%rsi,%rcx,1),%ymm3"
PRODUCTS = ["vfmadd231ps %ymm2,%ymm3,%ymm0", "vfmadd231ps (%rdx),%ymm3,%ymm1"]
SPILL = "vmovaps %ymm1,0x20(%rsp)"


def listing(body, name=NAME, before=(), repeat=()):
    """A function whose loop is `body`, itself in a loop that starts with `repeat`."""
    instructions = [*PROLOGUE, *before]
    outer = len(instructions)
    instructions += repeat
    inner = len(instructions)
    instructions += [*body, f"jne    {inner:x} <{name}+0x{inner:x}>", f"jl     {outer:x} <{name}+0x{outer:x}>", "ret"]
    lines = [f"{address:4x}:\t{instruction}" for address, instruction in enumerate(instructions)]
    return "\n".join(["", "Disassembly of section .text:", "", f"0000000000000000 <{name}>:", *lines, ""])


class CheckLoops(unittest.TestCase):
    def wrong(self, text):
        with contextlib.redirect_stdout(io.StringIO()):
            return check_loops.check_listing(text)

    def rejects(self, message, *arguments, **keywords):
        found = self.wrong(listing(*arguments, **keywords))
        self.assertTrue(any(message in problem for problem in found), found)

    def test_sound_loop_passes(self):
        self.assertEqual(self.wrong(listing([LOAD, BROADCAST, *PRODUCTS])), [])

    def test_what_it_printed_is_what_was_there(self):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            check_loops.check_listing(listing([LOAD, BROADCAST, *PRODUCTS]))
        self.assertIn("2 products, 3 vector loads (1 folded into products), 5 instructions", printed.getvalue())

    def test_sum_that_is_stored_to_the_stack(self):
        self.rejects("spills", [LOAD, BROADCAST, *PRODUCTS, SPILL])

    def test_operand_that_comes_from_the_stack(self):
        self.rejects("spills", [LOAD, BROADCAST, PRODUCTS[0], "vfmadd231ps 0x40(%rsp),%ymm3,%ymm1"])
        self.rejects("spills", ["vbroadcastss (%rsp,%rax,4),%ymm2", BROADCAST, *PRODUCTS])

    def test_frame_pointer_is_the_stack_too(self):
        self.rejects("spills", [LOAD, BROADCAST, *PRODUCTS], before=["mov    %rsp,%rbp"])

    def test_spill_outside_the_innermost_loop_passes(self):
        self.assertEqual(self.wrong(listing([LOAD, BROADCAST, *PRODUCTS], repeat=[SPILL])), [])

    def test_code_out_of_the_way_is_in_the_loop_only_if_it_returns_to_its_start(self):
        def wrong(*body):
            lines = [f"{address:4x}:\t{instruction}" for address, instruction in enumerate(body)]
            return self.wrong("\n".join([f"0000000000000000 <{NAME}>:", *lines, ""]))

        loop, away = [LOAD, BROADCAST, *PRODUCTS], "jg     7 <f+0x7>"
        self.assertEqual(wrong(away, *loop, "jne    1 <f+0x1>", "ret", SPILL, "jmp    1 <f+0x1>"), [])
        self.assertNotEqual(wrong(*loop, away, "jne    0 <f+0x0>", "ret", SPILL, "jmp    0 <f+0x0>"), [])

    def test_missing_products(self):
        self.rejects("loops of [1] products", [LOAD, BROADCAST, PRODUCTS[0]])
        self.rejects("loops of [] products", [LOAD, BROADCAST, "vmulps %ymm2,%ymm3,%ymm0", "vaddps %ymm0,%ymm1,%ymm1"])

    def test_products_of_another_type(self):
        self.rejects("loops of [] products", [LOAD, BROADCAST, *PRODUCTS], name=PAIRS)
        pairs = ["vdpbf16ps %zmm2,%zmm3,%zmm0", "vdpbf16ps %zmm2,%zmm3,%zmm1"]
        self.assertEqual(self.wrong(listing([LOAD, BROADCAST, *pairs], name=PAIRS)), [])

    def test_loop_that_writes_its_result_is_no_product_loop(self):
        self.rejects("loops of [] products", [LOAD, *PRODUCTS, "vmovups %ymm0,(%rdx)"])

    def test_every_kind_of_tile_must_be_there(self):
        names = [f"void mla::detail::{kind}<Arch, 2, 1, float, float>(float const*)" for kind in check_loops.KINDS]
        texts = [listing([LOAD, BROADCAST, *PRODUCTS], name=name) for name in names]
        self.assertEqual(check_loops.missing_tiles("".join(texts)), [])
        for left_out in texts:
            self.assertEqual(len(check_loops.missing_tiles("".join(text for text in texts if text != left_out))), 1)


if __name__ == "__main__":
    unittest.main()
