#!/usr/bin/env bash
# Builds, tests and measures all that a machine with many cores is wanted for, in 8 minutes or less, and writes one JSON file with
# whatever was done by then. PyTorch stands beside where python3 has it.
# usage: benchmarks/device_check.sh <file.json> [seconds a case]
# Needs what the tests and benchmarks need (README), installed; nothing is downloaded.
set -euo pipefail
out=$(realpath "${1:?usage: benchmarks/device_check.sh <file.json> [seconds a case]}")
seconds=${2:-0.2}
limit=480
cd "$(dirname "$0")/.."
build=$(mktemp -d)
mkdir "$build/raw"
: >"$build/tests"
threads=$(nproc)
tests=(targets decode_absorbed prefill_expanded linear)
programs=(roofline scale decode linear libraries compare)

finish() {
    local status=$?
    ((status == 0)) || tail -n 20 "$build"/*.log
    wait || true
    python3 benchmarks/device_json.py "$build" "$out" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" || status=1
    rm -rf "$build"
    exit "$status"
}
trap finish EXIT

# Runs a command for as long as there is time left.
within_limit() {
    timeout "$((SECONDS < limit ? limit - SECONDS : 1))" "$@"
}

# configure <folder> <option of CMake>...
configure() {
    cmake -S . -B "$build/$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFETCHCONTENT_FULLY_DISCONNECTED=ON -DMLA_BUILD_EXAMPLES=OFF \
        -DMLA_BUILD_TOOLS=OFF "${@:2}"
}

build_programs() {
    configure bench -DMLA_ARCH=native -DMLA_BUILD_TESTS=OFF
    within_limit cmake --build "$build/bench" --target "${programs[@]/#/mla_bench_}"
}

build_tests() {
    local targets=("${tests[@]/#/mla_}")
    configure test -DMLA_BUILD_BENCHMARKS=OFF -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG'
    within_limit cmake --build "$build/test" --target mla_targets "${targets[@]/%/_test}"
}

# The cases of a program that are measured.
cases() {
    case $1 in
        roofline | scale) echo . ;;
        decode) echo 'deepseek_v[^/]*/(bf16|int8|fp8)/L:(4096|16384|65536)/q:1/threads:'"$threads"'$' ;;
        linear) echo '/(q_b_proj|q_proj|o_proj)/bf16/T:(1|64|512)/threads:'"$threads"'$' ;;
        libraries) echo '/decode/.*/L:(4096|65536)/q:1/threads:'"$threads"'$|/o_proj/.*/T:64/threads:'"$threads"'$' ;;
        compare) echo '/T:1/L:(4096|65536)/' ;;
    esac
}

measure() {
    within_limit "$build/bench/benchmarks/mla_bench_$1" --benchmark_filter="$(cases "$1")" --benchmark_min_time="$seconds" \
        --benchmark_out="$build/raw/$1.json" --benchmark_out_format=json >"$build/measure.log" 2>&1
}

# test_on <target> <test>
test_on() {
    MLA_TARGET=$1 within_limit "$build/test/tests/mla_$2_test" --gtest_brief=1 >"$build/test.log" 2>&1
}

# Both at once: neither keeps all cores busy to its end.
build_tests >"$build/build_tests.log" 2>&1 &
tests_built=$!
build_programs >"$build/build_programs.log" 2>&1
wait "$tests_built"
echo "$SECONDS s: built"

for program in "${programs[@]}"; do
    measure "$program" || tail -n 3 "$build/measure.log"
    echo "$SECONDS s: measured $program"
done

# Every target that runs here natively, each against the reference and against the others.
while read -r target how; do
    [[ $how == native ]] || continue
    for test in "${tests[@]}"; do
        passed=true
        test_on "$target" "$test" || passed=false
        $passed || tail -n 20 "$build/test.log"
        echo "$target $test $passed" >>"$build/tests"
    done
done < <("$build/test/tests/mla_targets" list)
echo "$SECONDS s: tested"
