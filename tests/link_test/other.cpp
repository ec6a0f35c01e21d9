#include "decode.hpp"

std::vector<float> decode_in_other_unit() { return decode(); }
