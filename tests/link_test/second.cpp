#include "decode.hpp"

Decoded decode_in_second_unit() { return decode(); }
