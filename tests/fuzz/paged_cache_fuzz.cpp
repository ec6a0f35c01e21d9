// Any bytes, read as operations on a paged cache, keep it equal to its plain model. The first byte chooses the storage type, and
// whether tokens have index keys.
#include <cstddef>
#include <cstdint>

#include "support/paged_walk.hpp"

namespace {

template <mla::Storage C, class K = mla::NoIndexKeys>
void walk(const std::uint8_t* bytes, std::size_t size) {
    mla::testing::PagedWalk<C, mla::testing::ByteChoices, K> walk(mla::testing::ByteChoices(bytes, size));
    while (!walk.done()) walk.step();  // what it throws ends the program, which is how a fuzzer learns of it
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    if (size == 0) return 0;
    if (bytes[0] >= 128) {
        walk<float, mla::bf16>(bytes + 1, size - 1);
        return 0;
    }
    switch (bytes[0] % 4U) {
        case 0: walk<double>(bytes + 1, size - 1); break;
        case 1: walk<float>(bytes + 1, size - 1); break;
        case 2: walk<mla::bf16>(bytes + 1, size - 1); break;
        default: walk<mla::fp16>(bytes + 1, size - 1); break;
    }
    return 0;
}
