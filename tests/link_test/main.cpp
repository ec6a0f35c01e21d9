// Two units of one program that were compiled for different instruction sets: each runs the code of its own.
#include <cmath>
#include <cstdio>

#include "decode.hpp"

int main() {
    const Decoded first = decode_in_first_unit();
    const Decoded second = decode_in_second_unit();
    double difference = 0.0, size = 0.0;
    for (std::size_t i = 0; i < first.values.size(); ++i) {
        difference += std::pow(static_cast<double>(first.values[i] - second.values.at(i)), 2);
        size += std::pow(static_cast<double>(first.values[i]), 2);
    }
    const double apart = std::sqrt(difference / size);
    std::printf("%s and %s: %zu values, %.1e apart\n", first.target.c_str(), second.target.c_str(), first.values.size(), apart);
    return first.values.size() == second.values.size() && apart < 1e-3 ? 0 : 1;  // a rounding of bf16 here and there
}
