#include "decode.hpp"

Decoded decode_in_first_unit() { return decode(); }
