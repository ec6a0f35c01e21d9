// PyTorch's share of the cases, where the machine's Python has it: pytorch_peer.py, in a process of its own.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "core_cases.hpp"
#include "linear_case.hpp"

namespace mla::bench {

/// The version that python3 has installed; empty where there is none.
[[nodiscard]] inline const std::string& pytorch_version() {
    static const std::string version = [] {
        constexpr const char* command = "python3 -c 'import importlib.metadata as m; print(m.version(\"torch\"))' 2>/dev/null";
        const std::unique_ptr<std::FILE, int (*)(std::FILE*)> output(popen(command, "r"), pclose);
        std::array<char, 64> line{};
        if (output == nullptr || std::fgets(line.data(), line.size(), output.get()) == nullptr) return std::string();
        return std::string(line.data(), std::strcspn(line.data(), "\n"));
    }();
    return version;
}

/// The process, which lives as long as this program.
class PyTorchPeer {
  public:
    [[nodiscard]] static PyTorchPeer& instance() {
        static PyTorchPeer peer;
        return peer;
    }
    PyTorchPeer(const PyTorchPeer&) = delete;
    PyTorchPeer& operator=(const PyTorchPeer&) = delete;

    /// The answer to a request, a line each.
    /// @throws std::runtime_error with what the process says went wrong, or when it is gone
    std::string ask(const std::string& request) {
        std::fprintf(requests_, "%s\n", request.c_str());
        std::fflush(requests_);
        std::string answer;
        for (int character = std::fgetc(answers_); character != '\n'; character = std::fgetc(answers_)) {
            if (character == EOF) throw std::runtime_error("PyTorch's process has ended");
            answer += static_cast<char>(character);
        }
        if (answer.starts_with("error: ")) throw std::runtime_error("PyTorch: " + answer.substr(7));
        return answer;
    }

  private:
    using Pipe = std::array<int, 2>;  ///< where to read, where to write

    PyTorchPeer() {
        std::signal(SIGPIPE, SIG_IGN);  // a process that is gone is told by the missing answer
        Pipe requests{}, answers{};
        if (pipe(requests.data()) != 0 || pipe(answers.data()) != 0) throw std::runtime_error("no pipe for PyTorch's process");
        process_ = fork();
        if (process_ == 0) become_peer(requests, answers);
        close(requests[0]);
        close(answers[1]);
        requests_ = fdopen(requests[1], "w");
        answers_ = fdopen(answers[0], "r");
    }
    ~PyTorchPeer() {
        std::fclose(requests_);  // the end of its input ends it
        std::fclose(answers_);
        waitpid(process_, nullptr, 0);
    }

    [[noreturn]] static void become_peer(const Pipe& requests, const Pipe& answers) {
        dup2(requests[0], STDIN_FILENO);
        dup2(answers[1], STDOUT_FILENO);
        for (const int end : {requests[0], requests[1], answers[0], answers[1]}) close(end);
        execlp("python3", "python3", MLA_BENCH_PYTORCH_PEER, nullptr);
        _exit(127);
    }

    pid_t process_ = -1;
    std::FILE* requests_ = nullptr;
    std::FILE* answers_ = nullptr;
};

/// A case that PyTorch's process holds, checks against float64 and times.
class PyTorchCase final : public Case {
  public:
    /// `request` as pytorch_peer.py takes it, up to the copies, which are as many as make the case cold.
    /// @throws std::runtime_error when the process cannot run it, or its result is not right
    PyTorchCase(const Work& work, const std::string& request) : Case(work) {
        std::ostringstream line;
        line << request << ' ' << cold_copies(work.bytes) << ' ' << work.threads;
        PyTorchPeer::instance().ask(line.str());
    }

    void step() override { static_cast<void>(timed_step()); }
    /// By the process's own clock: what it takes to ask is no part of it.
    [[nodiscard]] double timed_step() override {
        std::istringstream answer(PyTorchPeer::instance().ask("step"));
        double seconds = 0.0;
        answer >> seconds >> sample_;
        return seconds;
    }
    /// A value of it.
    [[nodiscard]] MatrixView<const float> result() const override { return {&sample_, 1, 1}; }

  private:
    float sample_ = 0.0F;
};

template <Storage S>
inline constexpr const char* pytorch_type = std::is_same_v<S, bf16> ? "bfloat16" : "float32";

/// Absorbed decode of one token.
template <Storage S>
[[nodiscard]] std::unique_ptr<Case> pytorch_decode_case(const Config& c, Index length, Index threads) {
    std::ostringstream request;
    request << "decode " << pytorch_type<S> << ' ' << c.num_attention_heads << ' ' << c.kv_lora_rank << ' ' << c.qk_rope_head_dim
            << ' ' << length << ' ' << c.softmax_scale();
    return std::make_unique<PyTorchCase>(decode_work<S>(c, 1, length, threads), request.str());
}

/// A projection of all heads together.
template <Storage S>
[[nodiscard]] std::unique_ptr<Case> pytorch_linear_case(const Shape& shape, Index tokens, Index threads) {
    std::ostringstream request;
    request << "linear " << pytorch_type<S> << ' ' << tokens << ' ' << shape.in << ' ' << shape.out;
    return std::make_unique<PyTorchCase>(linear_work<S>(shape, tokens, threads), request.str());
}

}  // namespace mla::bench
