#!/usr/bin/env bash
# Builds, tests and measures all that a machine with many cores is wanted for, in some minutes, and writes one JSON file.
# usage: benchmarks/device_check.sh <file.json> [seconds a case]
# Needs what the tests and benchmarks need (README), installed; nothing is downloaded.
set -euo pipefail
out=$(realpath "${1:?usage: benchmarks/device_check.sh <file.json> [seconds a case]}")
seconds=${2:-0.2}
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
common=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DFETCHCONTENT_FULLY_DISCONNECTED=ON -DMLA_BUILD_EXAMPLES=OFF -DMLA_BUILD_TOOLS=OFF)

cmake -S . -B "$build/bench" "${common[@]}" -DMLA_ARCH=native -DMLA_BUILD_TESTS=OFF >"$build/log"
programs=(roofline scale decode linear libraries compare)
cmake --build "$build/bench" --target "${programs[@]/#/mla_bench_}" >>"$build/log"
mkdir "$build/raw"
for program in "${programs[@]}"; do
    case $program in
        roofline) cases=. ;;
        scale) cases=. ;;
        decode) cases='deepseek_v[^/]*/(bf16|int8|fp8)/L:(4096|16384|65536)/q:1/threads:'$(nproc)'$' ;;
        linear) cases='/(q_b_proj|q_proj|o_proj)/bf16/T:(1|64|512)/threads:'$(nproc)'$' ;;
        libraries) cases='/decode/.*/L:(4096|65536)/q:1/threads:'$(nproc)'$|/o_proj/.*/T:64/threads:'$(nproc)'$' ;;
        compare) cases='/T:1/L:(4096|65536)/' ;;
    esac
    "$build/bench/benchmarks/mla_bench_$program" --benchmark_filter="$cases" --benchmark_min_time="$seconds" \
        --benchmark_out="$build/raw/$program.json" --benchmark_out_format=json >/dev/null
    echo "$SECONDS s: measured $program"
done

# Every target that runs here natively, each against the reference and against the others.
cmake -S . -B "$build/test" "${common[@]}" -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG' -DMLA_BUILD_BENCHMARKS=OFF >>"$build/log"
tests=(targets decode_absorbed prefill_expanded linear)
programs=("${tests[@]/#/mla_}")
cmake --build "$build/test" --target mla_targets "${programs[@]/%/_test}" >>"$build/log"
: >"$build/tests"
while read -r target how; do
    [[ $how == native ]] || continue
    for test in "${tests[@]}"; do
        passed=true
        MLA_TARGET=$target "$build/test/tests/mla_${test}_test" --gtest_brief=1 >"$build/log" 2>&1 || passed=false
        $passed || tail -n 20 "$build/log"
        echo "$target $test $passed" >>"$build/tests"
    done
done < <("$build/test/tests/mla_targets" list)
echo "$SECONDS s: tested"

python3 - "$build" "$out" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" <<'PYTHON'
import json, pathlib, sys
build, out, commit = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
runs = {path.stem: json.loads(path.read_text()) for path in sorted((build / "raw").glob("*.json"))}
cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
tests = [dict(zip(("target", "test", "passed"), line.split())) for line in (build / "tests").read_text().splitlines()]
for test in tests:
    test["passed"] = test["passed"] == "true"
out.write_text(json.dumps({"version": 1, "cpu": cpu, "commit": commit, "tests": tests, "runs": runs}, indent=1))
print(f"{sum(test['passed'] for test in tests)} of {len(tests)} tests passed; {sum(len(run['benchmarks']) for run in runs.values())} cases: {out}")
sys.exit(0 if tests and all(test["passed"] for test in tests) else 1)
PYTHON
