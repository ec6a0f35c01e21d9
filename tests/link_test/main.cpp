#include <cmath>
#include <cstdio>

#include "decode.hpp"

int main() {
    const std::vector<float> here = decode();
    const std::vector<float> there = decode_in_other_unit();
    const bool agree = here == there && std::isfinite(here.at(0)) && here.at(0) != 0.0F;
    std::printf("%zu values, first %g here and %g in the other unit\n", here.size(), here.at(0), there.at(0));
    return agree ? 0 : 1;
}
