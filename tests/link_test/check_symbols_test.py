"""check_symbols.py lets the symbols of sound objects pass and finds each kind of fault when it is planted."""

import unittest

import check_symbols

SOUND = """
                 U __gxx_personality_v0
                 U exp
                 U memcpy
                 U std::terminate()
0000000000000000 V DW.ref.__gxx_personality_v0
0000000000000000 D mla_target_avx2
0000000000000000 W void mla::isa_avx2_bmi::detail::attend<mla::isa_avx2_bmi::targets::avx2, float>(mla::abi::AttendBlock<float> const*)
0000000000000040 t void mla::isa_avx2_bmi::detail::attend<mla::isa_avx2_bmi::targets::avx2, float>(mla::abi::AttendBlock<float> const*) [clone .part.0]
0000000000000080 W _ZN3mla12isa_avx2_bmi6detail4copyILi2EEEvRA6extentIXT_EE_NS0_4sizeE
0000000000000000 n wm4.0.5fecb3ba
0000000000000010 r low_order
"""
OTHER = SOUND.replace("12isa_avx2_bmi", "19isa_avx2_bmi_avx512").replace("isa_avx2_bmi:", "isa_avx2_bmi_avx512:").replace("mla_target_avx2", "mla_target_avx512")

FAULTS = {
    "0000000000000000 W std::vector<float, std::allocator<float> >::_M_default_append(unsigned long)": "a container",
    "                 U std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::_M_append(char const*, unsigned long)": "a container",
    "0000000000000000 W Eigen::internal::throw_std_bad_alloc()": "Eigen",
    "0000000000000000 t void mla::isa::detail::f<Eigen::Matrix<float, -1, -1> >()": "Eigen",
    "0000000000000000 b guard variable for (anonymous namespace)::table()::values": "initialised at run time",
    "0000000000000000 V guard variable for mla::isa_avx2_bmi::detail::table()::values": "initialised at run time",
    "                 U __cxa_guard_acquire": "initialised at run time",
    "0000000000000000 t _GLOBAL__sub_I_mla_target_avx2": "before main",
    "0000000000000000 t __static_initialization_and_destruction_0(int, int)": "before main",
    "                 U operator new(unsigned long)": "needs operator new",
    "                 U __cxa_throw": "needs __cxa_throw",
    "                 U std::__throw_length_error(char const*)": "needs std::__throw_length_error",
    "0000000000000000 W xsimd::batch<float, xsimd::avx2>::store_unaligned(float*) const": "defines xsimd::batch",
    "0000000000000000 W mla::compiled::Steps::round(float) const": "defines mla::compiled::Steps",
    "0000000000000000 W _ZN5xsimd6kernel4copyILi2EEEvRA6extentIXT_EE_NS_4sizeE": "defines _ZN5xsimd",
    "0000000000000000 W _ZN3mla8compiled6detail4copyILi2EEEvRA6extentIXT_EE_NS0_4sizeE": "defines _ZN3mla8compiled",
    "0000000000000000 T helper": "defines helper",
    "0000000000000000 B counter": "defines counter",
    "0000000000000000 u mla::counter": "defines mla::counter",
}


def symbols(listing):
    return check_symbols.LINE.findall(listing)


class CheckSymbols(unittest.TestCase):
    def test_sound_objects_pass(self):
        self.assertEqual(len(symbols(SOUND)), 11)
        self.assertEqual(check_symbols.brought_along(symbols(SOUND)), [])
        objects = {"a/mla_target_avx2.cpp.o": symbols(SOUND), "a/mla_target_avx512.cpp.o": symbols(OTHER)}
        self.assertEqual(check_symbols.shared_by_targets(objects), [])

    def test_each_planted_fault_is_found(self):
        for line, expected in FAULTS.items():
            with self.subTest(line):
                wrong = check_symbols.brought_along(symbols(SOUND + line + "\n"))
                self.assertTrue(any(expected in problem for problem in wrong), wrong)

    def test_two_targets_with_one_tag_are_found(self):
        objects = {"a/mla_target_avx2.cpp.o": symbols(SOUND), "a/mla_target_avx512.cpp.o": symbols(SOUND)}
        self.assertTrue(any("both define void mla::isa_avx2_bmi::detail::attend" in problem for problem in check_symbols.shared_by_targets(objects)))

    def test_an_emulated_target_may_share_with_generic(self):
        objects = {"a/mla_target_generic.cpp.o": symbols(SOUND), "a/mla_emulated_avx2.cpp.o": symbols(SOUND)}
        self.assertEqual(check_symbols.shared_by_targets(objects), [])


if __name__ == "__main__":
    unittest.main()
