// Hands a layer of this unit's instruction set to a function of a unit that has another's.
#include "mla/mla.hpp"

mla::Index bytes_of(const mla::Attention<mla::bf16>& layer);

int main(int count, char** arguments) {
    return static_cast<int>(bytes_of(*reinterpret_cast<mla::Attention<mla::bf16>*>(arguments[count])));
}
