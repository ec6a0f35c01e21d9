// The oracle: MLA, MHA and GQA in double precision and plain loops, to be read beside the papers. It shares no code with
// what it judges and is in no hurry.
#pragma once

#include "mla/reference/attention.hpp"
#include "mla/reference/gradients.hpp"
#include "mla/reference/grouped_query.hpp"
#include "mla/reference/indexer.hpp"
#include "mla/reference/layer.hpp"
#include "mla/reference/matrix.hpp"
#include "mla/reference/norm.hpp"
#include "mla/reference/rope.hpp"
#include "mla/reference/weights.hpp"
