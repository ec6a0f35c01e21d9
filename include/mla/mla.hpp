// Everything of mla but what needs more than Eigen and xsimd: executors of OpenMP and Eigen::ThreadPool (mla/core/), reading
// of checkpoints (mla/io/), the oracle (mla/reference/) and the conformance suite (mla/testing/) are included by name.
#pragma once

#include "mla/attention.hpp"
#include "mla/cache/flashmla_pages.hpp"
#include "mla/cache/paged_cache.hpp"
#include "mla/presets.hpp"
