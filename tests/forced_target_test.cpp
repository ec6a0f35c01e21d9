// MLA_TARGET asks for a target that is not there: whichever call comes first says so by an exception, and nothing ends the
// program.
#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "mla/core/target_report.hpp"
#include "mla/mla.hpp"
#include "mla/testing/configs.hpp"
#include "mla/testing/random.hpp"
#include "support/targets.hpp"
#include "support/thrown.hpp"

namespace mla {
namespace {

/// No call of this program has found a target yet, and none does.
class UnknownTarget : public ::testing::Test {
  protected:
    static void SetUpTestSuite() { ASSERT_EQ(setenv("MLA_TARGET", "avx1024", 1), 0); }

    template <class F>
    static void expect_refused(const char* call, F&& f) {
        const std::string message = testing::thrown<std::invalid_argument>(f);
        EXPECT_EQ(message, "mla: target is avx1024, must be one of " + testing::linked_names()) << call;
    }
};

TEST_F(UnknownTarget, IsAnExceptionOfALayer) {
    const Config config = testing::small_config();
    const testing::RandomWeights<bf16> weights(config, 1);
    expect_refused("Attention", [&] { const Attention<bf16> layer(config, weights.refs()); });
}

TEST_F(UnknownTarget, IsAnExceptionOfEveryKernelByItself) {
    std::vector<float> values(64, 1.0F), out(64), lse(1);
    const MatrixView<float> row(out.data(), 1, 64);
    const MatrixView<const float> x(values.data(), 1, 64);
    const HeadsView<float> heads(out.data(), 1, 1, 64);
    const HeadsView<const float> queries(values.data(), 1, 1, 64);
    const PackedMatrix<float> weight(1, 64, 64);
    Workspace workspace;
    expect_refused("rms_norm", [&] { rms_norm(row, values.data(), 1e-6); });
    expect_refused("gate_values", [&] { gate_values(heads, queries); });
    expect_refused("gate_heads", [&] { gate_heads(heads, x); });
    expect_refused("write_row", [&] { write_row(RowFormat<float>{64, 0}, values.data(), out.data()); });
    expect_refused("read_row", [&] { read_row(RowFormat<float>{64, 0}, values.data(), out.data()); });
    expect_refused("linear", [&] { linear<float>(x, weight, nullptr, row, SerialExecutor{}); });
    expect_refused("decode_absorbed", [&] {
        decode_absorbed(queries, LatentView<float>{values.data(), 1, 64, 0, 64}, 1.0F, heads, MatrixView<float>(lse.data(), 1, 1),
                        workspace, SerialExecutor{});
    });
}

TEST_F(UnknownTarget, IsAnExceptionOfTheChoiceAndALineOfTheReport) {
    expect_refused("chosen_target", [] { static_cast<void>(chosen_target()); });
    const std::string report = target_report();
    EXPECT_TRUE(report.starts_with("none is chosen: mla: target is avx1024, must be one of ")) << report;
    EXPECT_EQ(report.find(": chosen"), std::string::npos) << report;
    EXPECT_NE(report.find(linked_targets().front()->name + std::string(": runs\n")), std::string::npos) << report;
}

TEST(AbsentTarget, OfAnotherProcessorIsAnExceptionThatSaysSo) {
    for (const abi::Target* target : linked_targets()) {
        if (runs_here(*target)) continue;
        ASSERT_EQ(setenv("MLA_TARGET", target->name, 1), 0);
        const std::string message = testing::thrown<std::invalid_argument>([] { static_cast<void>(chosen_target()); });
        EXPECT_EQ(message, "mla: target " + std::string(target->name) + " does not run on this machine");
        const std::string report = target_report();
        EXPECT_NE(report.find(std::string(target->name) + ": not this processor's\n"), std::string::npos) << report;
    }
}

}  // namespace
}  // namespace mla
