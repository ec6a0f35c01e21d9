#include "mla/mla.hpp"

mla::Index bytes_of(const mla::Attention<mla::bf16>& layer);
mla::Index bytes_of(const mla::Attention<mla::bf16>& layer) { return static_cast<mla::Index>(layer.weight_bytes()); }
